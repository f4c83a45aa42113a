//! A web server on 80, as the image of that name has it.

fn main() -> std::io::Result<()> {
    skiff_test_programs::serve(80, |_| "<h1>Welcome to nginx!</h1>\n".to_owned())
}
