//! What is remembered of answers.

use super::*;

fn exchange() -> Arc<Exchange> {
    let (servers, options) = (vec![Server::of_this_host()], ResolvConf::default());
    Arc::new(Exchange::new(servers, &options, Duration::from_secs(1)))
}

#[tokio::test]
async fn an_answer_of_replaced_servers_is_used_and_not_cached() {
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

/// The guard judges every address of an answer, so one that cannot be dialled would only refuse the others.
#[tokio::test]
async fn a_fixed_answer_has_addresses_of_the_families_asked_for_only() {
    let host = Host::parse("a.example").unwrap();
    let [v4, v6] = ["203.0.113.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().unwrap());
    let config = DnsConfig {
        servers: vec![Server::of_this_host()],
        hosts: HashMap::from([(host.clone(), vec![v6, v4])]),
        ..DnsConfig::default()
    };
    let resolver = Resolver::new(config, Handle::current(), 4, None);
    let addresses = |host: &Host, v4, v6| {
        let fixed = resolver.fixed(host, Families { v4, v6 }).unwrap();
        fixed.map_or_else(|_| Vec::new(), |answer| answer.addresses)
    };
    assert_eq!(addresses(&host, true, true), [v6, v4]);
    assert_eq!(addresses(&host, true, false), [v4]);
    assert_eq!(addresses(&host, false, true), [v6]);
    let localhost = Host::parse("localhost").unwrap();
    assert_eq!(
        addresses(&localhost, true, false),
        [IpAddr::from([127, 0, 0, 1])]
    );
}
