//! Options are read as typed, checked against the manifest, and told apart from typing errors.

mod support;

use serde_json::json;
use support::{probe_options, raw_plugin};
use unswag_abi::doc::{Attrs, ProtocolInfo};
use unswag_loader::{PluginFile, PluginSpec, checked_options, probe_with, typed_options};

fn protocol(id: &str) -> ProtocolInfo {
    let probe = probe_with(&PluginFile::read(raw_plugin()).unwrap(), &probe_options()).unwrap();
    probe.manifest.protocols.into_iter().find(|protocol| protocol.id == id).unwrap()
}

fn given(spec: &str) -> Vec<(String, String)> {
    PluginSpec::parse(spec).unwrap().options
}

#[test]
fn a_specification_is_a_name_and_options() {
    let pairs = |spec: &str| {
        let spec = PluginSpec::parse(spec).unwrap();
        let options: Vec<_> = spec.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {}", spec.name, options.join(" "))
    };
    assert_eq!(pairs("delhi"), "delhi ");
    assert_eq!(pairs("delhi:mode=2bit"), "delhi mode=2bit");
    assert_eq!(pairs("delhi:mode=2bit,group=64"), "delhi mode=2bit group=64");
    assert_eq!(pairs("delhi: mode = 2bit , group = 64 "), "delhi mode=2bit group=64");
    assert_eq!(pairs("delhi:exact"), "delhi exact=true");
    assert_eq!(pairs("delhi:exact,group=64"), "delhi exact=true group=64");
    assert_eq!(pairs("delhi:table="), "delhi table=");
    assert_eq!(pairs(r#"delhi:table="a,b:c=d.json""#), "delhi table=a,b:c=d.json");
    assert_eq!(pairs(r#"delhi:table='"x"\y',k=1"#), r#"delhi table="x"\y k=1"#);
    assert_eq!(pairs(r#"delhi:table="a \"b\" \\ \n""#), r#"delhi table=a "b" \ \n"#);
    assert_eq!(pairs("delhi:table=C:a=b"), "delhi table=C:a=b");
    assert_eq!(pairs("délhi:größe=ä"), "délhi größe=ä");
    assert_eq!(PluginSpec::parse("./lib.so:a=1").unwrap().as_path().unwrap().to_str(), Some("./lib.so"));
    assert_eq!(PluginSpec::parse("delhi").unwrap().as_path(), None);
}

#[test]
fn a_specification_that_stops_making_sense_says_where() {
    for (spec, column, problem) in [
        ("", 1, "a protocol's name is missing"),
        (":a=1", 1, "a protocol's name is missing"),
        ("delhi:", 7, "an option's name is missing"),
        ("delhi:a=1,", 11, "an option's name is missing"),
        ("delhi:a=1,,b=2", 11, "an option's name is missing"),
        ("delhi:=2", 7, "an option's name is missing"),
        (r#"delhi:a="open"#, 9, "never closed"),
        (r#"delhi:a="1"b"#, 12, "`b` is one too many"),
        (r#""delhi"x"#, 8, "`x` is one too many"),
    ] {
        let error = PluginSpec::parse(spec).unwrap_err();
        assert_eq!(error.column, column, "{error}");
        assert!(error.problem.contains(problem), "{error}");
    }
}

#[test]
fn a_specification_reads_back_as_it_is_printed() {
    for value in ["plain", "", " spaces ", "a,b", "a:b", "a=b", "\"", "'", "\\", "\\\"", "\"a\\", "ä,ö"] {
        let spec = PluginSpec {
            name: "/a:b/lib.so".to_owned(),
            options: vec![("key".to_owned(), value.to_owned()), ("k2".to_owned(), "v".to_owned())],
        };
        assert_eq!(PluginSpec::parse(&spec.to_string()).unwrap(), spec, "{spec}");
    }
}

#[test]
fn defaults_are_filled_in_and_types_are_kept() {
    let options = typed_options(&protocol("raw"), &given("raw:group=128,scale=0.5,exact,table=/a/b.json")).unwrap();
    let expected: Attrs = [
        ("behave", json!("well")),
        ("group", json!(128)),
        ("scale", json!(0.5)),
        ("exact", json!(true)),
        ("table", json!("/a/b.json")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    assert_eq!(options, expected);
    // A second pass, as a record's options get, changes nothing.
    assert_eq!(checked_options(&protocol("raw"), &options).unwrap(), options);
}

#[test]
fn what_does_not_fit_is_told_with_what_would() {
    for (spec, said) in [
        ("raw:gruop=64", "no option `gruop` (did you mean `group`?); it has: behave, exact, group, scale, table"),
        ("raw:zzzzzz=1", "no option `zzzzzz`; it has: "),
        ("raw:group=0", "option group: expected an integer from 1 to 4096, got 0"),
        ("raw:group=4097", "expected an integer from 1 to 4096, got 4097"),
        ("raw:group=64.0", "expected an integer from 1 to 4096, got `64.0`"),
        ("raw:group=99999999999999999999", "expected an integer"),
        ("raw:group=", "expected an integer"),
        ("raw:scale=-0.5", "expected a number of at least 0, got -0.5"),
        ("raw:scale=NaN", "expected a number"),
        ("raw:scale=inf", "expected a number"),
        ("raw:exact=yes", "expected true or false, got `yes`"),
        ("raw:behave=badly", "expected one of well, fail, garbage"),
        ("raw:group=1,group=2", "option group is given twice"),
    ] {
        let message = typed_options(&protocol("raw"), &given(spec)).expect_err(spec).to_string();
        assert!(message.contains(said), "{spec}: {message}");
    }
    let message = typed_options(&protocol("needy"), &[]).unwrap_err().to_string();
    assert!(message.contains("needs option rank (Rank), which has no default; write needy:rank="), "{message}");
}

#[test]
fn typed_values_are_checked_as_text_is() {
    for (key, value, said) in [
        ("group", json!("64"), "expected an integer from 1 to 4096, got the text \"64\""),
        ("group", json!(64.5), "expected an integer"),
        ("group", json!(null), "got nothing"),
        ("exact", json!(1), "expected true or false, got 1"),
        ("table", json!("a\0b"), "expected a path"),
        ("behave", json!(["well"]), "got a list"),
        ("scale", json!({}), "got a mapping"),
    ] {
        let options = Attrs::from([(key.to_owned(), value)]);
        let message = checked_options(&protocol("raw"), &options).unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
}
