//! A web server on 8080 that answers with its host name.

fn main() -> std::io::Result<()> {
    skiff_test_programs::serve(8080, |_| format!("You've hit {}\n", skiff_test_programs::hostname()))
}
