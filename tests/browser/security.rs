//! Attacks: markup in every text that others can provide, forms of other sites, and redirects to other hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use inroad_sdk::Client;
use inroad_wire::v1::{self, payload};
use prost_types::value::Kind;
use tonic::Request;

use crate::fixtures::{KEY, button_experiment, start_server};
use crate::harness::{Api, Server, Setup, eventually};
use crate::raw_request::{RawResponse, send, send_to_host};
use crate::webdriver::Browser;

/// Markup that closes any surrounding element or attribute, and runs a script if a page does not escape it.
const EVIL: &str =
    "\"'></textarea></title></script><img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

/// An experiment with this markup in every text field.
fn experiment_with_markup() -> v1::Experiment {
    let mut experiment = button_experiment();
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

/// Records an exposure of a unit, with the markup in its context.
async fn expose(api: &Api, unit: &str) {
    let text = |text: String| prost_types::Value { kind: Some(Kind::StringValue(text)) };
    let context = [(EVIL, unit.to_owned()), ("country", EVIL.repeat(2))].map(|(k, v)| (k.to_owned(), text(v)));
    let assignment = api.assign(KEY, prost_types::Struct { fields: context.into() }, v1::ExposureMode::Durable).await;
    assert!(assignment.exposure_recorded, "{assignment:?}");
}

/// Asserts that the page shows the markup only as text. The console reports what the content security policy blocked.
async fn assert_no_markup(browser: &Browser, path: &str) {
    let found = "return [window.hacked === undefined, document.querySelectorAll('script').length, \
        document.querySelectorAll('img:not(.brand img), [onerror]').length]";
    assert_eq!(browser.evaluate(found, vec![]).await, serde_json::json!([true, 1, 0]), "{path}");
}

/// Request headers: names and values.
type Headers<'a> = Vec<(&'a str, &'a str)>;

#[tokio::test(flavor = "multi_thread")]
async fn text_of_others_is_never_markup() {
    let server = start_server().await;
    let api = server.api();
    let mut create =
        Request::new(v1::CreateExperimentRequest { experiment: Some(experiment_with_markup()), validate_only: false });
    create.metadata_mut().insert("inroad-actor", EVIL.parse().expect("ASCII"));
    api.experiments().create_experiment(create).await.expect("create the experiment");
    let start = v1::StartExperimentRequest { key: KEY.to_owned(), etag: String::new() };
    api.experiments().start_experiment(start).await.expect("start the experiment");
    let outcome = |unit: &str, id: &str| v1::Outcome {
        units: BTreeMap::from([(EVIL.to_owned(), unit.to_owned())]),
        event: EVIL.to_owned(),
        value: 1.0,
        event_id: id.to_owned(),
        ..v1::Outcome::default()
    };
    expose(&api, &format!("first{EVIL}")).await;
    api.record(vec![], vec![outcome(&format!("first{EVIL}"), "1")]).await;
    let client = Client::builder(server.url()).client_name(EVIL).build().expect("build a client");
    assert!(client.ready(std::time::Duration::from_secs(20)).await);

    let browser = Browser::open(&server, "/").await;
    browser.set_name(EVIL).await;
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
        assert_no_markup(&browser, path).await;
    }
    // Error pages for names that do not exist.
    for path in [format!("/experiments/{code}"), format!("{at}/ask/{code}"), format!("{at}/ask/kill?variation={code}")]
    {
        browser.go(&path).await;
        assert_no_markup(&browser, &path).await;
        browser.expect_console_error("status of 4").await;
    }
    // A form that is shown again with errors, and a page with live updates.
    browser.go(&format!("{at}/edit")).await;
    assert_eq!(browser.value_of("description").await, EVIL);
    for name in ["variations.1.key", "metrics.0.window", "policy.tick", "audience", "overrides.0.when"] {
        let set = "document.querySelector(`main [name='${arguments[0]}']`).value = arguments[1]";
        browser.evaluate(set, vec![name.into(), EVIL.into()]).await;
    }
    browser.press_first_button("Save").await;
    browser.wait_for("Not saved. Fix these errors").await;
    assert_no_markup(&browser, "the form with errors").await;
    browser.expect_console_error("422").await;
    browser.go("/feed").await;
    browser.wait_for("live").await;
    browser.record_changes_of("events").await;
    expose(&api, &format!("fresh{EVIL}")).await;
    api.record(vec![], vec![outcome(&format!("fresh{EVIL}"), "2")]).await;
    browser.wait_for_change_showing("fresh\"").await;
    assert_no_markup(&browser, "the feed after a live update").await;
}

/// A new visitor: the token for their forms, and their cookie.
async fn new_visitor(address: SocketAddr) -> (String, String) {
    let answer = send(address, "GET /", &[], "").await;
    let cookie =
        answer.header("set-cookie").expect("a set-cookie header").split(';').next().expect("a cookie").to_owned();
    let token = cookie.split_once('=').expect("a value").1.to_owned();
    (token, cookie)
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_other_sites_change_nothing() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let address = server.address;
    let (token, cookie) = new_visitor(address).await;
    let own_origin = format!("http://{address}");
    let before = api.get(KEY).await;
    let kill = format!("/experiments/{KEY}/do/kill");
    let paths = [kill.clone(), format!("/experiments/{KEY}/edit"), "/new".to_owned(), "/who".to_owned()];
    let cookie = ("cookie", cookie.as_str());
    let other = "0123456789abcdef0123456789abcdef";
    let with = |token: &str| format!("token={token}&variation=green&do=save&name=Eve&here=/");
    for path in &paths {
        let line = format!("POST {path}");
        let attempts: [(&str, Headers<'_>, String); 8] = [
            ("no token", vec![cookie], with("")),
            ("another token", vec![cookie], with(other)),
            ("no cookie", vec![], with(&token)),
            ("a cookie that is no token", vec![("cookie", "inroad-token=x")], with("x")),
            ("another site", vec![cookie, ("origin", "https://evil.example")], with(&token)),
            ("a page without origin", vec![cookie, ("origin", "null")], with(&token)),
            ("another port", vec![cookie, ("origin", "http://127.0.0.1:1")], with(&token)),
            ("reported by the browser", vec![cookie, ("sec-fetch-site", "cross-site")], with(&token)),
        ];
        for (what, headers, body) in attempts {
            let answer = send(address, &line, &headers, &body).await;
            assert_eq!(answer.code, 403, "{path}, {what}: {}", answer.body);
            assert!(answer.body.contains("Nothing was changed"), "{path}, {what}");
        }
    }
    for path in [&kill, "/who"] {
        let answer = send(address, &format!("GET {path}?{}", with(&token)), &[cookie], "").await;
        assert_eq!(answer.code, 405, "{path}");
    }
    assert_eq!(api.get(KEY).await.etag, before.etag);
    assert_eq!(api.audit(KEY).await.len(), 2, "it was created and started");

    // The same form from this server's page is accepted, so the refusals above are due to their origin.
    let headers = [cookie, ("origin", own_origin.as_str()), ("sec-fetch-site", "same-origin")];
    let answer = send(address, &format!("POST {kill}"), &headers, &with(&token)).await;
    assert_eq!(answer.code, 303, "{}", answer.body);
    assert!(api.get(KEY).await.variations[1].killed);
}

/// With DNS rebinding, a site gives its own name the address of this server. To the browser both are one site then.
#[tokio::test(flavor = "multi_thread")]
async fn site_that_gives_its_name_this_address_reads_and_changes_nothing() {
    let setup = Setup { options: vec!["--host".to_owned(), "Inroad.example".to_owned()], ..Setup::default() };
    let server = Server::with(setup).await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let (address, port) = (server.address, server.address.port());
    let (token, cookie) = new_visitor(address).await;
    let line = format!("POST /experiments/{KEY}/do/kill");
    let body = format!("token={token}&variation=green");
    for host in ["evil.example".to_owned(), format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}")] {
        for path in ["/", "/audit", "/metrics", "/live"] {
            let answer = send_to_host(address, &host, &format!("GET {path}"), &[], "").await;
            assert_eq!(answer.code, 421, "{host}{path}: {}", answer.body);
            assert!(answer.body.contains("--host NAME"), "{}", answer.body);
        }
        let origin = format!("http://{host}");
        let headers = [("cookie", cookie.as_str()), ("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
        assert_eq!(send_to_host(address, &host, &line, &headers, &body).await.code, 421, "{host}");
    }
    assert!(!api.get(KEY).await.variations[1].killed);
    for host in ["localhost".to_owned(), format!("inroad.example:{port}"), "[::1]".to_owned(), "10.0.0.7".to_owned()] {
        assert_eq!(send_to_host(address, &host, "GET /", &[], "").await.code, 200, "{host}");
    }
    assert_eq!(send_to_host(address, "probe.example", "GET /healthz", &[], "").await.code, 200);
    let headers = [("cookie", cookie.as_str()), ("origin", "http://inroad.example"), ("sec-fetch-site", "same-origin")];
    assert_eq!(send_to_host(address, "inroad.example", &line, &headers, &body).await.code, 303);
    assert!(api.get(KEY).await.variations[1].killed);
}

/// gRPC is on the same port, and pages of other sites can make the browser send requests to it.
#[tokio::test(flavor = "multi_thread")]
async fn page_of_another_site_cannot_call_grpc() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let path = "/inroad.v1.ExperimentService/Kill";
    let message = [&[0x0a, KEY.len() as u8], KEY.as_bytes()].concat();
    let body = [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat();
    let killed = async || api.get(KEY).await.killed;

    // Another port is another origin. This page has no content security policy.
    let other_site = Server::start().await;
    let browser = Browser::open(&other_site, "/healthz").await;
    let fetch = "const [url, bytes, headers, mode] = arguments; return fetch(url, {method: 'POST', mode, headers, \
        body: new Uint8Array(bytes)}).then(() => 'sent', error => 'refused')";
    let url = format!("{}{path}", server.url());
    let send_there = async |kind: &str, mode: &str| {
        let headers = serde_json::json!({"content-type": kind});
        let arguments = vec![url.clone().into(), body.clone().into(), headers, mode.into()];
        browser.evaluate(fetch, arguments).await
    };
    assert_eq!(send_there("text/plain", "no-cors").await, "sent", "browsers send such requests");
    assert_eq!(
        send_there("application/grpc", "cors").await,
        "refused",
        "the browser asks first and gets no permission"
    );
    browser.expect_console_error("").await;
    assert!(!killed().await);

    let text = String::from_utf8(body.clone()).expect("small bytes");
    let post = format!("POST {path}");
    let status_of = async |headers: &[(&str, &str)]| send(server.address, &post, headers, &text).await.code;
    assert_eq!(status_of(&[("content-type", "text/plain")]).await, 415);
    assert_eq!(status_of(&[("content-type", "application/grpc"), ("origin", "http://evil.example")]).await, 403);
    assert!(!killed().await);
    // The same bytes from a program are accepted, so the refusals above are due to their headers.
    assert_eq!(status_of(&[("content-type", "application/grpc")]).await, 200);
    assert!(killed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_stay_on_the_server_and_too_large_forms_are_refused() {
    let server = start_server().await;
    let address = server.address;
    let (token, cookie) = new_visitor(address).await;
    let cookie = ("cookie", cookie.as_str());
    for target in
        ["//evil.example", "https://evil.example/", "/%5Cevil.example", "/%09/evil.example", "/%0D%0Ax:y", "evil", ""]
    {
        let answer = send(address, "POST /who", &[cookie], &format!("token={token}&name=Ada&here={target}")).await;
        assert_eq!((answer.code, answer.header("location")), (303, Some("/")), "{target}: {}", answer.head);
    }
    let answer =
        send(address, "POST /who", &[cookie], &format!("token={token}&name=Ada&here=/feed?unit=%2F%2Fa")).await;
    assert_eq!(answer.header("location"), Some("/feed?unit=//a"));
    let bad_name = send(address, "POST /who", &[cookie], &format!("token={token}&name=a%0Ab&here=/")).await;
    assert_eq!((bad_name.code, bad_name.header("set-cookie")), (422, None));
    assert!(!bad_name.body.contains("value=\"/who\""), "/who is not a page to return to");

    let body = format!("token={token}&description={}", "x".repeat(3 << 20));
    for path in ["/new", "/who", &format!("/experiments/{KEY}/do/kill")] {
        let answer = send(address, &format!("POST {path}"), &[cookie], &body).await;
        assert_eq!(answer.code, 413, "{path}");
        assert!(
            answer.body.contains("The form is larger than 2 MiB") && answer.body.contains("Nothing was changed"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_security_headers() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let at = format!("/experiments/{KEY}");
    let overview = send(server.address, "GET /", &[], "").await;
    let assets = overview.body.split('"').filter(|text| text.starts_with("/assets/")).map(str::to_owned);
    let mut paths: Vec<String> = assets.collect();
    assert!(paths.len() >= 3, "{paths:?}");
    for path in ["/", "/new", "/playground", "/feed", "/clients", "/experiments/nobody", "/assets/0/inroad.js"] {
        paths.push(path.to_owned());
    }
    for path in ["", "/edit", "/ask/kill", "/ask/nothing", "/funnel", "/do/kill"] {
        paths.push(format!("{at}{path}"));
    }
    for path in paths {
        let RawResponse { head, .. } = &send(server.address, &format!("GET {path}"), &[], "").await;
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
        let is_uncached = head.contains("cache-control: no-store");
        assert_eq!(is_uncached, !path.starts_with("/assets/") || path.contains("/0/"), "{path}: {head}");
        for cookie in head.lines().filter(|line| line.starts_with("set-cookie")) {
            assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn link_from_another_site_keeps_name_and_token() {
    let server = Server::start().await;
    let browser = Browser::open(&server, "/new").await;
    browser.set_name("Ada").await;
    let token = "return document.querySelector('[name=token]').value";
    let before = browser.evaluate(token, vec![]).await;
    let link = format!("data:text/html,<a href='{}/new'>To the dashboard</a>", server.url());
    browser.go_to(&link).await;
    browser.follow("To the dashboard").await;
    browser.wait_for("Ada").await;
    assert_eq!(browser.evaluate(token, vec![]).await, before, "otherwise forms in other windows would be refused");
    // A form of the other site is refused.
    let form = format!(
        "data:text/html,<form method=post action='{}/who'><input name=name value=Eve><button>Send</button></form>",
        server.url()
    );
    browser.go_to(&form).await;
    browser.press_button("Send").await;
    browser.wait_for("Form not accepted").await;
    browser.expect_console_error("403").await;
    browser.go("/").await;
    browser.wait_for("Ada").await;
}
