//! Many services. Times are printed for who runs this to see them, not asserted: they are the machine's.

#[path = "../../network/tests/lab/mod.rs"]
mod lab;
mod world;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::ip;
use world::{Service, World};

fn service(number: u32) -> Service {
    let address = Ipv4Addr::from_bits(ip("10.96.16.0").to_bits() + number);
    Service::new(&format!("service-{number}"), &address.to_string()).port(80)
}

fn endpoints(number: u32) -> [(usize, Ipv4Addr, bool); 3] {
    let base = ip("10.244.128.0").to_bits() + 3 * (number % 10_000);
    [0, 1, 2].map(|index| (0, Ipv4Addr::from_bits(base + index), true))
}

fn fill(world: &World, count: u32) {
    for number in 0..count {
        world.put(&service(number), &endpoints(number), 80);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_service_among_ten_thousand_costs_what_it_changes() {
    let mut world = World::new(1);
    world.stop();
    for (from, to) in [(0, 1_000), (1_000, 10_000)] {
        for number in from..to {
            world.put(&service(number), &endpoints(number), 80);
        }
        let begin = Instant::now();
        world.start();
        println!("{to} services x 3 endpoints, all at once: {:?}", begin.elapsed());
        world.stop();
        let begin = Instant::now();
        world.lab.nodes[0].ruleset.restore().unwrap();
        println!("  of that the kernel, and our writing to it: {:?}", begin.elapsed());
        let begin = Instant::now();
        assert!(world.lab.nodes[0].ruleset.is_intact());
        println!("  read back and compared: {:?}", begin.elapsed());
    }
    world.start();
    let times = (10_000..10_021).map(|number| {
        let begin = Instant::now();
        world.put(&service(number), &endpoints(number), 80);
        world.served(&service(number), 80, true);
        begin.elapsed()
    });
    println!("one more service among 10,000: {:?} (median of 21)", median(times.collect()));
}

#[test]
fn an_endpoint_that_is_gone_gets_no_new_connection() {
    let world = World::new(1);
    fill(&world, 1_000);
    let (a, a_ip) = world.lab.nodes[0].sandbox("a");
    let (b, b_ip) = world.lab.nodes[0].sandbox("b");
    let _servers = [a.serve_tcp("0.0.0.0:80", "a"), b.serve_tcp("0.0.0.0:80", "b")];
    let web = Service::new("web", "10.96.0.5").port(80);
    let mut delays = Vec::new();
    for _ in 0..20 {
        world.set(&web, &[(0, a_ip, true), (0, b_ip, true)], 80);
        let begin = Instant::now();
        world.put(&web, &[(0, b_ip, true)], 80);
        // Ends when none of twenty in a row meets the one that is gone: one in a million by chance.
        let (mut last, mut row) = (Duration::ZERO, 0);
        while row < 20 {
            if b.tcp("10.96.0.5:80").starts_with("a ") {
                (last, row) = (begin.elapsed(), 0);
            } else {
                row += 1;
            }
        }
        delays.push(last);
    }
    println!("last connection to an endpoint that is gone: {:?} at most", delays.iter().max().unwrap());
}
