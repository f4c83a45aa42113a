//! Paths as a shell reads them, in commands that are told to be pasted.

use std::path::Path;

/// As one word, by POSIX's rules (2.2.2, single quotes); as it is where nothing in it means anything else.
pub(crate) fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for path in ["/var/lib/skiff/a-1_2/kubeconfig", "/tmp/.x,y:z@h%p+q=r"] {
            assert_eq!(word(Path::new(path)), path, "quotes would only be in the way");
        }
        for path in [
            "/d 5/k",
            "/it's/$HOME/`x`/\"q\"",
            "/a;b&c|d<e>f(g)",
            "/*?[a]{b,c}",
            "/~/#!\\",
            "/\n\t",
            "/é",
            "",
        ] {
            let script = format!(
                "export V={}; printf %s \"$V\"; printf %s \"$(printf %s {0})\"",
                word(Path::new(path))
            );
            let said = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
            assert_eq!(String::from_utf8(said.stdout).expect("text"), [path, path].concat(), "{script}");
        }
    }
}
