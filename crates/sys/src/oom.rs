//! Whom the kernel takes when memory runs out: `oom_score_adj` of proc(5), from −1000 (never) to 1000 (first).
//!
//! Whoever lacks CAP_SYS_RESOURCE can't go below the lowest that the process or those before it were ever
//! given, and learns where that is only by trying.

use std::fs;
use std::io;

const OWN: &str = "/proc/self/oom_score_adj";

/// Gives this process the value, or the lowest above it that the kernel permits, which also holds for what
/// it starts from then on. Answers what it is now; a process that has a lower one keeps that.
pub fn protect(wanted: i32) -> io::Result<i32> {
    let present = fs::read_to_string(OWN)?.trim().parse().map_err(io::Error::other)?;
    towards(wanted, present, |value| match fs::write(OWN, value.to_string()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    })
}

/// The lowest value from `wanted` up that is taken, where all above a taken one are.
fn towards(wanted: i32, present: i32, mut take: impl FnMut(i32) -> io::Result<bool>) -> io::Result<i32> {
    if present <= wanted || take(wanted)? {
        return Ok(present.min(wanted));
    }
    // `refused` never is taken, and `taken` is in force.
    let (mut refused, mut taken) = (wanted, present);
    while taken - refused > 1 {
        let middle = refused + (taken - refused) / 2;
        match take(middle)? {
            true => taken = middle,
            false => refused = middle,
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in force afterwards, where nothing below `floor` is permitted.
    fn check(wanted: i32, present: i32, floor: i32, expected: i32) {
        let mut own = present;
        let told = towards(wanted, present, |value| {
            own = if value >= floor { value } else { own };
            Ok(value >= floor)
        });
        assert_eq!((told.unwrap(), own), (expected, expected), "{wanted} {present} {floor}");
    }

    #[test]
    fn it_is_as_low_as_is_permitted() {
        check(-999, 0, -1000, -999);
        check(-999, 0, 0, 0);
        check(-999, 500, 0, 0);
        check(-999, 0, -500, -500);
        check(-998, -999, -1000, -999);
        check(-999, 1000, 1000, 1000);
        check(-998, -997, -997, -997);
    }

    #[test]
    fn this_process_gets_what_the_kernel_permits() {
        // In a thread's own process nothing else can be tried: its present value is always permitted.
        let present: i32 = fs::read_to_string(OWN).unwrap().trim().parse().unwrap();
        assert_eq!(protect(present).unwrap(), present);
    }
}
