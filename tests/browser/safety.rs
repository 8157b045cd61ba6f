//! What strangers try: markup in every text that somebody else may give, forms that no page of ours sent, and addresses
//! that lead elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use inroad_sdk::Client;
use inroad_wire::v1::{self, payload};
use prost_types::value::Kind;
use tonic::Request;

use crate::driving::Browser;
use crate::harness::{Api, Server, eventually};
use crate::request::{Answer, send};
use crate::stage::{KEY, button, server};

/// Markup that closes whatever it may stand in, and runs if anything of it is taken for more than text.
const EVIL: &str =
    "\"'></textarea></title></script><img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

/// An experiment that says it wherever an experiment may say something.
fn evil() -> v1::Experiment {
    let mut experiment = button();
    experiment.description = EVIL.to_owned();
    experiment.owner = EVIL.to_owned();
    experiment.tags = vec![EVIL.to_owned()];
    experiment.unit = EVIL.to_owned();
    experiment.audience = format!("country != {}", serde_json::json!(EVIL));
    for variation in &mut experiment.variations {
        variation.description = EVIL.to_owned();
        variation.payload = Some(v1::Payload { value: Some(payload::Value::StringValue(EVIL.to_owned())) });
    }
    for metric in &mut experiment.metrics {
        metric.event = EVIL.to_owned();
    }
    let pinned = v1::Override { variation: "green".to_owned(), units: vec![EVIL.to_owned()], ..Default::default() };
    experiment.overrides = vec![pinned];
    experiment
}

/// A unit sees its variation, in a context that says it too.
async fn see(api: &Api, unit: &str) {
    let text = |text: String| prost_types::Value { kind: Some(Kind::StringValue(text)) };
    let context = [(EVIL, unit.to_owned()), ("country", EVIL.repeat(2))].map(|(k, v)| (k.to_owned(), text(v)));
    let seen = api.assign(KEY, prost_types::Struct { fields: context.into() }, v1::ExposureMode::Durable).await;
    assert!(seen.exposure_recorded, "{seen:?}");
}

/// Whether the page took any of it for more than text; the browser itself tells of what its policy stopped.
async fn assert_inert(browser: &Browser, path: &str) {
    let found = "return [window.hacked === undefined, document.querySelectorAll('script').length, \
        document.querySelectorAll('img:not(.brand img), [onerror]').length]";
    assert_eq!(browser.evaluate(found, vec![]).await, serde_json::json!([true, 1, 0]), "{path}");
}

/// Headers of a request, by name.
type Headers<'a> = Vec<(&'a str, &'a str)>;

#[tokio::test(flavor = "multi_thread")]
async fn no_text_that_anybody_gives_is_taken_for_markup() {
    let server = server().await;
    let api = server.api();
    let mut create = Request::new(v1::CreateExperimentRequest { experiment: Some(evil()), validate_only: false });
    create.metadata_mut().insert("inroad-actor", EVIL.parse().expect("ASCII"));
    api.experiments().create_experiment(create).await.expect("it is all text");
    let start = v1::StartExperimentRequest { key: KEY.to_owned(), etag: String::new() };
    api.experiments().start_experiment(start).await.expect("it starts");
    let outcome = |unit: &str, id: &str| v1::Outcome {
        units: BTreeMap::from([(EVIL.to_owned(), unit.to_owned())]),
        event: EVIL.to_owned(),
        value: 1.0,
        event_id: id.to_owned(),
        ..v1::Outcome::default()
    };
    see(&api, &format!("first{EVIL}")).await;
    api.record(vec![], vec![outcome(&format!("first{EVIL}"), "1")]).await;
    let client = Client::builder(server.url()).client_name(EVIL).build().expect("a client");
    assert!(client.ready(std::time::Duration::from_secs(20)).await);

    let browser = Browser::open(&server, "/").await;
    browser.say_who(EVIL).await;
    let code: String = url::form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let json: String =
        url::form_urlencoded::byte_serialize(serde_json::json!({ EVIL: EVIL }).to_string().as_bytes()).collect();
    let at = format!("/experiments/{KEY}");
    let pages = [
        ("/".to_owned(), true),
        (format!("/?q={code}&tag={code}&owner={code}&state={code}&prefix={code}"), true),
        (at.clone(), true),
        (format!("{at}?did=kill&variation={code}&version=1"), true),
        (format!("{at}/edit"), false),
        (format!("/new?from={KEY}"), false),
        (format!("{at}/ask/grow?variation=green&amount={code}&how={code}"), false),
        (format!("{at}/funnel?step={code}&step={code}&from={code}"), false),
        (format!("{at}/funnel?step={code}"), true),
        (format!("/playground?experiment={KEY}&unit={code}&context={json}"), true),
        (format!("/playground?experiment={code}&unit={code}&context={code}&at={code}"), false),
        ("/feed".to_owned(), true),
        (format!("/feed?kind={code}&experiment={code}&unit={code}&what={code}"), false),
        ("/clients".to_owned(), true),
    ];
    for (path, shows) in &pages {
        browser.go(path).await;
        if *shows {
            eventually(&format!("{path:.60} shows it as text"), async || {
                browser.text().await.contains("onerror=\"window.hacked=1\"").then_some(())
            })
            .await;
        }
        assert_inert(&browser, path).await;
    }
    // The same where nothing is there under such a name.
    for path in [format!("/experiments/{code}"), format!("{at}/ask/{code}"), format!("{at}/ask/kill?variation={code}")]
    {
        browser.go(&path).await;
        assert_inert(&browser, &path).await;
        browser.expect_complaint("status of 4").await;
    }
    // A form that comes back with what is wrong, and a page that follows.
    browser.go(&format!("{at}/edit")).await;
    assert_eq!(browser.value_of("description").await, EVIL);
    for name in ["variations.1.key", "metrics.0.window", "policy.tick", "audience", "overrides.0.when"] {
        let set = "document.querySelector(`main [name='${arguments[0]}']`).value = arguments[1]";
        browser.evaluate(set, vec![name.into(), EVIL.into()]).await;
    }
    browser.press_first("Save").await;
    browser.wait_for("This cannot be saved yet").await;
    assert_inert(&browser, "the form with faults").await;
    browser.expect_complaint("422").await;
    browser.go("/feed").await;
    browser.wait_for("live").await;
    browser.note_changes_of("events").await;
    see(&api, &format!("fresh{EVIL}")).await;
    api.record(vec![], vec![outcome(&format!("fresh{EVIL}"), "2")]).await;
    browser.first_showed("fresh\"").await;
    assert_inert(&browser, "the feed, which followed").await;
}

/// A person with our cookie: the token that their forms send, and the header that brings the cookie.
async fn somebody(address: SocketAddr) -> (String, String) {
    let answer = send(address, "GET /", &[], "").await;
    let cookie = answer.header("set-cookie").expect("a token").split(';').next().expect("a cookie").to_owned();
    let token = cookie.split_once('=').expect("a value").1.to_owned();
    (token, cookie)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_page_of_ours_sent_changes_nothing() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let address = server.address;
    let (token, cookie) = somebody(address).await;
    let ours = format!("http://{address}");
    let before = api.get(KEY).await;
    let kill = format!("/experiments/{KEY}/do/kill");
    let paths = [kill.clone(), format!("/experiments/{KEY}/edit"), "/new".to_owned(), "/who".to_owned()];
    let cookie = ("cookie", cookie.as_str());
    let other = "0123456789abcdef0123456789abcdef";
    let with = |token: &str| format!("token={token}&variation=green&do=save&name=Eve&here=/");
    for path in &paths {
        let line = format!("POST {path}");
        let tries: [(&str, Headers<'_>, String); 8] = [
            ("no token", vec![cookie], with("")),
            ("another token", vec![cookie], with(other)),
            ("no cookie", vec![], with(&token)),
            ("a cookie that is no token", vec![("cookie", "inroad-token=x")], with("x")),
            ("another site", vec![cookie, ("origin", "https://evil.example")], with(&token)),
            ("a page without origin", vec![cookie, ("origin", "null")], with(&token)),
            ("another port", vec![cookie, ("origin", "http://127.0.0.1:1")], with(&token)),
            ("said by the browser", vec![cookie, ("sec-fetch-site", "cross-site")], with(&token)),
        ];
        for (what, headers, body) in tries {
            let answer = send(address, &line, &headers, &body).await;
            assert_eq!(answer.code, 403, "{path}, {what}: {}", answer.body);
            assert!(answer.body.contains("Nothing was changed"), "{path}, {what}");
        }
    }
    for path in [&kill, "/who"] {
        let asked = send(address, &format!("GET {path}?{}", with(&token)), &[cookie], "").await;
        assert_eq!(asked.code, 405, "{path}");
    }
    assert_eq!(api.get(KEY).await.etag, before.etag);
    assert_eq!(api.audit(KEY).await.len(), 2, "it was created and started");

    // The same form from a page of ours is taken, so that it is the rest that was refused.
    let headers = [cookie, ("origin", ours.as_str()), ("sec-fetch-site", "same-origin")];
    let answer = send(address, &format!("POST {kill}"), &headers, &with(&token)).await;
    assert_eq!(answer.code, 303, "{}", answer.body);
    assert!(api.get(KEY).await.variations[1].killed);
}

/// gRPC is on the same port, and a browser sends what any page tells it to any address.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_makes_no_grpc_call() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let path = "/inroad.v1.ExperimentService/Kill";
    let message = [&[0x0a, KEY.len() as u8], KEY.as_bytes()].concat();
    let body = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
    let killed = async || api.get(KEY).await.killed;

    // Another port is another origin; this page of it has no policy of its own.
    let elsewhere = Server::start().await;
    let browser = Browser::open(&elsewhere, "/healthz").await;
    let fetch = "const [url, bytes, headers, mode] = arguments; return fetch(url, {method: 'POST', mode, headers, \
        body: new Uint8Array(bytes)}).then(() => 'sent', error => 'refused')";
    let url = format!("{}{path}", server.url());
    let send_there = async |kind: &str, mode: &str| {
        let headers = serde_json::json!({"content-type": kind});
        let arguments = vec![url.clone().into(), body.clone().into(), headers, mode.into()];
        browser.evaluate(fetch, arguments).await
    };
    assert_eq!(send_there("text/plain", "no-cors").await, "sent", "no browser stops this");
    assert_eq!(send_there("application/grpc", "cors").await, "refused", "it asks first, and nobody answers");
    browser.expect_complaint("").await;
    assert!(!killed().await);

    let text = String::from_utf8(body.clone()).expect("small bytes");
    let post = format!("POST {path}");
    let of = async |headers: &[(&str, &str)]| send(server.address, &post, headers, &text).await.code;
    assert_eq!(of(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(of(&[("content-type", "application/grpc"), ("origin", "http://evil.example")]).await, 403);
    assert!(!killed().await);
    // The same bytes from a program are a call, so that it is the rest that was refused.
    assert_eq!(of(&[("content-type", "application/grpc")]).await, 200);
    assert!(killed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_led_elsewhere_and_nothing_too_large_is_taken() {
    let server = server().await;
    let address = server.address;
    let (token, cookie) = somebody(address).await;
    let cookie = ("cookie", cookie.as_str());
    for elsewhere in
        ["//evil.example", "https://evil.example/", "/%5Cevil.example", "/%09/evil.example", "/%0D%0Ax:y", "evil", ""]
    {
        let answer = send(address, "POST /who", &[cookie], &format!("token={token}&name=Ada&here={elsewhere}")).await;
        assert_eq!((answer.code, answer.header("location")), (303, Some("/")), "{elsewhere}: {}", answer.head);
    }
    let answer =
        send(address, "POST /who", &[cookie], &format!("token={token}&name=Ada&here=/feed?unit=%2F%2Fa")).await;
    assert_eq!(answer.header("location"), Some("/feed?unit=//a"));
    let bad_name = send(address, "POST /who", &[cookie], &format!("token={token}&name=a%0Ab&here=/")).await;
    assert_eq!((bad_name.code, bad_name.header("set-cookie")), (422, None));
    assert!(!bad_name.body.contains("value=\"/who\""), "there is no such page to come back to");

    let body = format!("token={token}&description={}", "x".repeat(3 << 20));
    for path in ["/new", "/who", &format!("/experiments/{KEY}/do/kill")] {
        let answer = send(address, &format!("POST {path}"), &[cookie], &body).await;
        assert_eq!(answer.code, 413, "{path}");
        assert!(answer.body.contains("A form may have 2 MiB") && answer.body.contains("Nothing was changed"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_a_strict_policy_of_what_may_run() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let at = format!("/experiments/{KEY}");
    let style = send(server.address, "GET /", &[], "").await;
    let assets = style.body.split('"').filter(|text| text.starts_with("/assets/")).map(str::to_owned);
    let mut paths: Vec<String> = assets.collect();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in ["/", "/new", "/playground", "/feed", "/clients", "/experiments/nobody", "/assets/0/inroad.js"] {
        paths.push(path.to_owned());
    }
    for path in ["", "/edit", "/ask/kill", "/ask/nothing", "/funnel", "/do/kill"] {
        paths.push(format!("{at}{path}"));
    }
    for path in paths {
        let Answer { head, .. } = &send(server.address, &format!("GET {path}"), &[], "").await;
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect(&path);
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("data:"), "{path}: {policy}");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        for line in ["x-content-type-options: nosniff", "x-frame-options: DENY", "referrer-policy: same-origin"] {
            assert!(head.contains(line), "{path}: {head}");
        }
        let kept = head.contains("cache-control: no-store");
        assert_eq!(kept, !path.starts_with("/assets/") || path.contains("/0/"), "{path}: {head}");
        for cookie in head.lines().filter(|line| line.starts_with("set-cookie")) {
            assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_link_from_elsewhere_stays_who_they_are() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/new").await;
    browser.say_who("Ada").await;
    let token = "return document.querySelector('[name=token]').value";
    let before = browser.evaluate(token, vec![]).await;
    let link = format!("data:text/html,<a href='{}/new'>To the dashboard</a>", server.url());
    browser.go_to(&link).await;
    browser.follow("To the dashboard").await;
    browser.wait_for("Ada").await;
    assert_eq!(browser.evaluate(token, vec![]).await, before, "forms in other windows would be refused");
    // And a form there sends nothing that counts.
    let form = format!(
        "data:text/html,<form method=post action='{}/who'><input name=name value=Eve><button>Send</button></form>",
        server.url()
    );
    browser.go_to(&form).await;
    browser.press_button("Send").await;
    browser.wait_for("Not accepted").await;
    browser.expect_complaint("403").await;
    browser.go("/").await;
    browser.wait_for("Ada").await;
}
