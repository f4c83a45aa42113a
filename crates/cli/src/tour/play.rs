//! Plays the steps: says what is asked, typed and expected, waits for Enter, types it, and compares.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::events::{Event, Events};
use super::scene::Scene;
use super::steps::{Step, Typed, steps};
use super::texts::{Texts, Told};
use super::write_out;

/// How long what is still on its way may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// How a tour came to its end.
enum End {
    Whole,
    /// Somebody left; the step that they were at is played again the next time.
    Left,
}

pub(super) fn play(
    scene: &Scene<'_>,
    texts: &'static Texts,
    events: &Events,
    yes: bool,
) -> anyhow::Result<()> {
    write_out(&format!("{}\n\n{}\n", texts.heading, texts.intro))?;
    let left = scene.begin()?;
    let mut player = Player { scene, texts, events, yes, wrong: Vec::new() };
    let end = player.all(&left);
    if !matches!(end, Ok(End::Whole)) {
        // Also where nobody reads any more; what can't be taken away now is when the tour goes on.
        let _ = write_out(&format!("\n{}\n", texts.leaving));
        scene.sweep()?;
    }
    match end? {
        End::Left if scene.interrupted() => bail!("{}", texts.stopped),
        End::Left => return write_out(&format!("{}\n", texts.stopped)),
        End::Whole => scene.clean()?,
    }
    write_out(&format!("\n{}\n", texts.done))?;
    let wrong = player.wrong;
    if wrong.is_empty() { Ok(()) } else { bail!("{}: {}", texts.not_as_expected, wrong.join("; ")) }
}

struct Player<'a> {
    scene: &'a Scene<'a>,
    texts: &'static Texts,
    events: &'a Events,
    yes: bool,
    /// Commands that did not print what they should.
    wrong: Vec<String>,
}

impl Player<'_> {
    /// All steps from the one of that name on.
    fn all(&mut self, from: &str) -> anyhow::Result<End> {
        let steps = steps();
        let first = steps.iter().position(|step| step.id == from).unwrap_or(0);
        if first > 0 {
            write_out(&format!("\n{}: {from}\n", self.texts.resumes))?;
        }
        for (index, step) in steps.iter().enumerate().skip(first) {
            let told = self.texts.step(step.id);
            write_out(&self.introduced(index, steps.len(), step, told))?;
            if !self.goes_on()? {
                return Ok(End::Left);
            }
            if first > 0 {
                // What the steps before made was taken away when the tour was left.
                self.scene.fetch(step.needs)?;
            }
            self.step(step, told)?;
            if self.scene.interrupted() {
                return Ok(End::Left);
            }
            if let Some(next) = steps.get(index + 1) {
                self.scene.note(next.id)?;
            }
        }
        Ok(End::Whole)
    }

    /// What is said before anything is typed.
    fn introduced(&self, index: usize, all: usize, step: &Step, told: &Told) -> String {
        let texts = self.texts;
        let mut head = format!(
            "\n[{}/{all}] {} ({})\n{} {}\n",
            index + 1,
            told.title,
            step.id,
            texts.question,
            told.question
        );
        if let Some((file, text)) = step.manifest {
            head += &format!("{} {file}:\n{}\n", texts.manifest, indented(&self.scene.with_nodes(text)));
        }
        let commands: String = step.typed.iter().map(|typed| format!("    $ {}\n", typed.command)).collect();
        head += &format!("{}\n{commands}{} {}\n", texts.typed, texts.expect, told.expect);
        head
    }

    fn goes_on(&self) -> anyhow::Result<bool> {
        if self.yes {
            return Ok(!self.scene.interrupted());
        }
        write_out(&format!("[{}] ", self.texts.press_enter))?;
        Ok(self.events.wait() == Event::On)
    }

    fn step(&mut self, step: &Step, told: &Told) -> anyhow::Result<()> {
        for typed in step.typed {
            self.typed(step, typed)?;
        }
        write_out(&format!("\n{} {}\n", self.texts.explained, told.explained))?;
        for typed in step.explained {
            self.typed(step, typed)?;
        }
        if !step.cleanup.is_empty() && !self.scene.interrupted() {
            let cleaned = self.scene.shell(step.cleanup);
            if !cleaned.ok && !self.scene.interrupted() {
                write_out(&cleaned.text)?;
            }
        }
        Ok(())
    }

    fn typed(&mut self, step: &Step, typed: &Typed) -> anyhow::Result<()> {
        if self.scene.interrupted() {
            return Ok(());
        }
        write_out(&format!("$ {}\n", typed.command))?;
        let mut printed = self.scene.shell(typed.command);
        let end = Instant::now() + PATIENCE;
        let expected: Vec<String> = typed.expect.iter().map(|expected| self.scene.here(expected)).collect();
        // What is still on its way is looked at again; only commands that change nothing are repeated.
        while !lacking(&expected, &printed.text).is_empty()
            && is_look(typed.command)
            && Instant::now() < end
            && !self.scene.interrupted()
        {
            std::thread::sleep(LOOK_AGAIN);
            printed = self.scene.shell(typed.command);
        }
        if self.scene.interrupted() {
            return Ok(());
        }
        let lacking = lacking(&expected, &printed.text);
        write_out(&indented(&printed.text))?;
        if lacking.is_empty() {
            return write_out(&format!("--> {}\n", self.texts.as_expected));
        }
        write_out(&format!("--> {}: {}\n", self.texts.not_as_expected, lacking.join(", ")))?;
        self.wrong.push(format!("{}: {}", step.id, typed.command));
        Ok(())
    }
}

/// What is expected and not so: as it is written in the steps, with `!` where it stands there and should not.
fn lacking<'a>(expected: &'a [String], text: &str) -> Vec<&'a str> {
    let whole = continued(text);
    let holds = |words: &str| text.contains(words) || whole.contains(words);
    let wrong = expected.iter().filter(|expected| match expected.strip_prefix('!') {
        Some(absent) => holds(absent),
        None => !holds(expected),
    });
    wrong.map(String::as_str).collect()
}

/// A text with the lines that begin with `…` joined to those that they continue.
fn continued(text: &str) -> String {
    let mut whole = String::new();
    for line in text.lines() {
        let (joint, line) = match line.trim_start().strip_prefix("… ") {
            Some(rest) => (' ', rest),
            None => ('\n', line),
        };
        whole.push(joint);
        whole.push_str(line);
    }
    whole
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Whether a command may be typed again.
fn is_look(command: &str) -> bool {
    !["apply", "delete", "create", "label", "kill"].iter().any(|verb| command.contains(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_and_what_is_too_much_is_named() {
        let expected = ["eth0", "!cbr0", "10.244."].map(str::to_owned);
        assert_eq!(lacking(&expected, "eth0 10.244.1.5"), Vec::<&str>::new());
        assert_eq!(lacking(&expected, "eth0 cbr0 10.1.0.1"), ["!cbr0", "10.244."]);
        let sentence = ["the node agent among them".to_owned()];
        assert_eq!(
            lacking(&sentence, "pid host  all of n, the node\n          … agent among them\n"),
            Vec::<&str>::new()
        );
        assert_eq!(lacking(&sentence, "the node\nagent among them"), ["the node agent among them"]);
    }

    #[test]
    fn only_looks_are_repeated() {
        assert!(is_look("kubectl get pod kubia") && is_look("skiff explain pod kubia"));
        for step in steps() {
            assert!(step.explained.iter().all(|typed| is_look(typed.command)), "{}", step.id);
        }
        assert!(!is_look("kubectl apply -f $M/kubia.yaml"));
    }
}
