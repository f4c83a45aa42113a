//! A web server on 8080, or on the port in `PORT`, that answers with its host name and addresses.

use std::io;

fn main() -> io::Result<()> {
    let port = match std::env::var("PORT") {
        Ok(text) => text.parse().map_err(|_| io::Error::other(format!("PORT {text:?} is no port")))?,
        Err(_) => 8080,
    };
    skiff_test_programs::serve(port, |_| {
        let addresses: Vec<String> =
            skiff_test_programs::addresses().iter().map(ToString::to_string).collect();
        format!("Host:{} | IP:{} | Version:1\n", skiff_test_programs::hostname(), addresses.join(","))
    })
}
