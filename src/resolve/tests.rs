//! What is remembered of answers.

use super::*;

fn exchange() -> Arc<Exchange> {
    let (servers, options) = (vec![Server::of_this_host()], ResolvConf::default());
    Arc::new(Exchange::new(servers, &options, Duration::from_secs(1)))
}

#[tokio::test]
async fn an_answer_of_servers_that_were_replaced_meanwhile_is_used_and_not_kept() {
    let config = DnsConfig {
        servers: vec![Server::of_this_host()],
        timeout: Duration::from_secs(1),
        ..DnsConfig::default()
    };
    let resolver = Resolver::new(config, Handle::current(), 4, None);
    let key = Key {
        host: Host::parse("a.example").unwrap(),
        families: Families::BOTH,
    };
    let addresses = vec![IpAddr::from([203, 0, 113, 7])];
    let answers = |by: &Arc<Exchange>| {
        let found = Found {
            addresses: addresses.clone(),
            ttl: Duration::from_secs(60),
        };
        let answer = resolver.remember_or_recall(key.clone(), true, Ok(found), by);
        assert_eq!(answer.unwrap().addresses, addresses);
        resolver.known(&key).is_some()
    };
    let former = exchange();
    assert!(!answers(&former), "the next tunnel asks the new servers");
    let present = Arc::clone(&resolver.exchange.borrow());
    assert!(answers(&present));
}
