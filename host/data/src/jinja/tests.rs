//! The engine against Jinja2, template by template, and against templates that mean harm.

use std::time::{Duration, Instant};

use super::{Error, GENERATED, Limits, Template, Value, with_stack};

const GOLDEN: &str = include_str!("golden/golden.jsonl");

fn now() -> jiff::civil::DateTime {
    jiff::civil::DateTime::constant(2026, 11, 21, 8, 5, 9, 0)
}

fn run(source: &str, variables: &[(&str, Value)], limits: Limits) -> Result<String, Error> {
    with_stack(|| Template::parse(source)?.render(variables, now(), limits)).and_then(|text| text)
}

fn render(source: &str) -> Result<String, Error> {
    let messages = serde_json::from_str(GOLDEN.lines().next().unwrap()).unwrap();
    run(source, &[("messages", messages)], Limits::for_input(1000))
}

#[test]
fn templates_write_what_jinja2_writes_or_are_refused() {
    let messages: Value = serde_json::from_str(GOLDEN.lines().next().unwrap()).unwrap();
    let variables = [("messages", messages)];
    let (mut equal, mut failed, mut refused, mut wrong) = (0, 0, 0, Vec::new());
    let cases: Vec<(String, Option<String>, bool)> = GOLDEN
        .lines()
        .skip(1)
        .map(|line| {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            (case[0].as_str().unwrap().to_owned(), case[1].as_str().map(str::to_owned), case[2] == true)
        })
        .collect();
    let ours = with_stack(|| {
        let limits = Limits { steps: 100_000, ..Limits::for_input(1000) };
        let render = |(source, ..): &(String, _, _)| Template::parse(source)?.render(&variables, now(), limits);
        cases.iter().map(render).collect::<Vec<_>>()
    });
    for ((source, expected, is_refused), ours) in cases.iter().zip(ours.unwrap()) {
        match (expected, is_refused, ours) {
            (Some(expected), false, Ok(text)) if text == *expected => equal += 1,
            (Some(_), true, Err(_)) => refused += 1,
            (None, _, Err(_)) => failed += 1,
            (_, _, ours) => wrong.push(format!("{source}\n    jinja2: {expected:?}\n    ours:   {ours:?}")),
        }
    }
    let shown = wrong.iter().take(400).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {} differ\n{shown}", wrong.len(), cases.len());
    assert!(equal > 4_000 && failed > 2_000 && refused < 600, "{equal} {failed} {refused}");
}

/// Renders with the limits of every command, but for fewer steps, so that the test is quick.
fn refused(source: &str) -> Error {
    let started = Instant::now();
    let messages = serde_json::from_str(GOLDEN.lines().next().unwrap()).unwrap();
    let limits = Limits { steps: 300_000, ..Limits::for_input(1000) };
    let error = run(source, &[("messages", messages)], limits);
    let error = error.expect_err(&source.chars().take(100).collect::<String>());
    assert!(started.elapsed() < Duration::from_secs(10), "{source:.100} took {:?}", started.elapsed());
    error
}

#[test]
fn what_is_nested_too_deeply_is_refused_and_crashes_nothing() {
    let many = |part: &str| part.repeat(3_000);
    let deep = |set: &str, then: &str| {
        format!("{{% set ns=namespace(x=[],y=[]) %}}{{% for i in range(100000) %}}{set}{{% endfor %}}{then}")
    };
    let nested = "{% set ns.x=[ns.x] %}";
    for source in [
        format!("{{{{ {}1 }}}}", many("not ")),
        format!("{{{{ {}1 }}}}", many("-")),
        format!("{{{{ {}1 }}}}", many("+")),
        format!("{{{{ {}2 }}}}", many("2**")),
        format!("{{{{ a{} }}}}", many(".a")),
        format!("{{{{ a{} }}}}", many("[0]")),
        format!("{{{{ a{} }}}}", many("()")),
        format!("{{{{ a{} }}}}", many("|e")),
        format!("{{{{ {}1 }}}}", many("1+")),
        format!("{{{{ {}1 }}}}", many("1 and ")),
        format!("{{{{ {}1 }}}}", many("1 if 0 else ")),
        format!("{{{{ {}1{} }}}}", many("("), many(")")),
        format!("{{{{ {}1{} }}}}", many("["), many("]")),
        format!("{{{{ {}1{} }}}}", many("{1:"), many("}")),
        format!("{{{{ {}1{} }}}}", many("f("), many(")")),
        format!("{{{{ 1 {} }}}}", many("is not eq 1 or 1 ")),
        many("{% if 1 %}") + &many("{% endif %}"),
        many("{% for i in x %}") + &many("{% endfor %}"),
        many("{% with %}"),
        format!("{{% for {}a{} in x %}}{{% endfor %}}", many("("), many(",)")),
        deep(nested, "{{ ns.x }}"),
        deep(nested, "{{ ns.x|tojson }}"),
        deep(nested, "{{ {ns.x:1} }}"),
        deep("{% set ns.x=[ns.x] %}{% set ns.y=[ns.y] %}", "{{ ns.x==ns.y }}"),
        deep("{% set ns.x=(ns.x,) %}", "{{ {ns.x: 1} }}"),
        deep("{% set ns.x={1: ns.x} %}", "{{ ns.x }}"),
        deep("{% set ns.x=[ns.x].index %}", "{{ ns.x }}"),
        deep("{% set ns.x={1: ns.x}.items() %}", "{{ ns.x }}"),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f() %}{{ caller() }}{% call f() %}x{% endcall %}{% endmacro %}{% call f() %}y{% endcall %}"
            .to_owned(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
    ] {
        let error = refused(&source);
        assert!(error.message.contains("nested too deeply"), "{source:.60}: {error:?}");
        assert!(error.line == Some(1), "{source:.60}: {error:?}");
    }
    // A namespace within itself has no text, in Jinja2 no end.
    assert!(refused("{% set ns=namespace() %}{% set ns.a=ns %}{{ ns }}").message.contains("no text"));
    assert!(refused("{% set ns=namespace() %}{% set ns.a=[ns] %}{{ ns.a|tojson }}").message.contains("not JSON"));
    // What real templates nest is let through.
    let nested = format!("{}x{}", "{% if 1 %}".repeat(100), "{% endif %}".repeat(100));
    assert_eq!(render(&nested).unwrap(), "x");
    let count_down = "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}";
    assert!(render(count_down).unwrap().ends_with("3210"));
}

#[test]
fn what_panicked_in_another_engine_is_an_error_with_its_line() {
    for source in [
        "\n{{ 1 is divisibleby(0) }}",
        "\n{% for m in messages %}{{ loop.cycle() }}{% endfor %}",
        "\n{%}",
        "\n{{}",
        "\n{%",
        "\n{# x",
        "\n{{ 'a' }",
        "\n{{ 1 % 0 }}",
        "\n{{ -170141183460469231731687303715884105727 - 2 }}",
        "\n{{ (-170141183460469231731687303715884105727 - 1) // -1 }}",
        "\n{{ -(-170141183460469231731687303715884105727 - 1) }}",
        "\n{{ (-170141183460469231731687303715884105727 - 1) | abs }}",
        "\n{{ 'x'[::-170141183460469231731687303715884105727] ~ ''.nosuch() }}",
        "\n{{ 1 in range(3, 170141183460469231731687303715884105727, 170141183460469231731687303715884105727) ~ [][0]() }}",
        "\n{{ range(-170141183460469231731687303715884105727, 170141183460469231731687303715884105727) }}",
        "\n{{ '{:{}}'.format(1, 'é') }}",
        "\n{{ '%é' % 1 }}",
        "\n{{ '\\xé' }}",
        "\n{{ '\\u00' }}",
        "\n{{ '\\ud83d\\ude00' }}",
        "\n{{ 1e400 | int ~ nope.x }}",
        "\n{{ [1] | slice(0) | list }}",
        "\n{{ strftime_now('%') }}",
        "\n{{ cycler() }}",
        "\n{{ [1, 2] | batch(-1) | list | batch(nope) }}",
        "\n{{ raise_exception('no') }}",
    ] {
        let error = refused(source);
        assert_eq!(error.line, Some(2), "{source}: {error:?}");
    }
}

#[test]
fn a_template_that_makes_too_much_is_refused_before_it_does() {
    for source in [
        "{% set ns=namespace(x='ab') %}{% for i in range(60) %}{% set ns.x=ns.x~ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns=namespace(x='ab') %}{% for i in range(60) %}{% set ns.x=ns.x+ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns=namespace(x='aaaaaaaaaa') %}{% for i in range(12) %}{% set ns.x=ns.x|replace('a','aaaaaaaaaa') %}{% endfor %}",
        "{% set ns=namespace(x='a') %}{% for i in range(40) %}{% set ns.x=[ns.x,ns.x]|join(ns.x) %}{% endfor %}",
        "{{ ('a\n'*1000) | indent(4000000000) }}",
        "{{ ('a\n'*100000) | indent(4000) }}",
        "{{ '%4000000000d'|format(1) }}",
        "{{ '%.4000000000f' % 1 }}",
        "{{ '%*d' % (4000000000, 1) }}",
        "{{ '{:>4000000000}'.format(1) }}",
        "{{ '{:04000000000,}'.format(1) }}",
        "{{ messages|batch(1000000000,'x')|list|length }}",
        "{{ messages|slice(1000000000)|list|length }}",
        "{{ 'x' * 4000000000 }}",
        "{{ [1] * 4000000000 }}",
        "{{ (1,) * 4000000000 }}",
        "{{ 'x'.center(4000000000) }}",
        "{{ 'x' | center(4000000000) }}",
        "{{ 'x'.zfill(4000000000) }}",
        "{{ 'x'.ljust(4000000000, 'é') }}",
        "{{ '\t'.expandtabs(4000000000) }}",
        "{{ 'abc'.replace('', 'x' * 30000000) }}",
        "{{ [1]|tojson(indent=4000000000) }}",
        "{{ range(100000)|list|tojson(separators=('x' * 10000, ':')) }}",
        "{% set ns=namespace(x=[1,2]) %}{% for i in range(60) %}{% set ns.x=ns.x+ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x=[ns.x,ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns=namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x=[ns.x,ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set x = 'x' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}",
        "{% for i in range(100000) %}{% set x %}{{ 'x' * 10000 }}{% endset %}{% endfor %}",
        "{{ range(100000)|map('string')|list|join('y' * 10000) }}",
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns=namespace(x='ab') %}{% for i in range(60) %}{% set ns.x=f(ns.x) %}{% endfor %}",
    ] {
        let said = refused(source).message;
        let expected = ["makes more than", "writes more than", "at most 1048576", "at most", "steps"];
        assert!(expected.iter().any(|part| said.contains(part)), "{source}: {said}");
    }
}

#[test]
fn wide_numbers_are_written_as_python_writes_them() {
    assert_eq!(render("{{ '%.70000d' % 5 }}").unwrap(), format!("{}5", "0".repeat(69_999)));
    assert_eq!(render("{{ '%.70000x' % 255 }}").unwrap(), format!("{}ff", "0".repeat(69_998)));
    assert_eq!(render("{{ '{:070001,}'.format(5) }}").unwrap().len(), 70_001);
}

#[test]
fn what_cannot_be_sorted_is_refused_by_the_comparison_and_not_by_a_panic() {
    let shuffled = |part: &str| {
        format!(
            "{{% set ns=namespace(x=[]) %}}{{% for i in range(300) %}}{{% set ns.x=ns.x+[{part}, i*7919%301] %}}{{% endfor %}}{{{{ ns.x|sort|first }}}}"
        )
    };
    assert!(refused(&shuffled("'nan'|float")).message.contains("no order"));
    assert!(refused(&shuffled("i|string")).message.contains("not supported between"));
    assert!(refused(&shuffled("none")).message.contains("not supported between"));
    assert_eq!(render(&shuffled("i*5003%301")).unwrap(), "0");
    for (items, sorted) in
        [("[3,1,2]", "[1, 2, 3]"), ("[1,2,3,4,5]", "[1, 2, 3, 4, 5]"), ("[]", "[]"), ("[2,2,1]", "[1, 2, 2]")]
    {
        assert_eq!(render(&format!("{{{{ {items}|sort }}}}")).unwrap(), sorted);
    }
    let pairs = "{{ [(1,'b'),(0,'x'),(1,'a'),(0,'y')]|sort(attribute='0', reverse=true)|map('last')|join }}";
    assert_eq!(render(pairs).unwrap(), "baxy");
}

#[test]
fn what_a_template_holds_counts_whatever_it_is() {
    let limits = Limits { steps: 100_000_000, ..Limits::for_input(1000) };
    let scopes = format!(
        "{{% for i in range(40000) %}}{}{{% macro m() %}}{{% endmacro %}}{}{{% endfor %}}",
        "{% with a=1 %}".repeat(40),
        "{% endwith %}".repeat(40)
    );
    for source in ["{{ ('{{' * 2000000).format()|length }}", "{{ []|sort(attribute=',' * 3000000) }}", &scopes] {
        let error = run(source, &[], limits).expect_err("more than it may hold");
        assert!(error.message.contains("makes more than"), "{source:.60}: {error:?}");
    }
    for source in ["{{ [][x].y }}", "{{ 1|attr(x) + 1 }}", "{{ namespace()[x] + 1 }}"] {
        let error = refused(&format!("{{% set x = 'x' * 1000000 %}}{source}"));
        assert!(error.message.len() < 200, "{source}: {} bytes", error.message.len());
    }
}

#[test]
fn a_template_that_takes_too_long_is_refused() {
    let tree = "{% set ns=namespace(x=[1],y=[1]) %}{% for i in range(60) %}{% set ns.x=[ns.x,ns.x] %}{% set ns.y=[ns.y,ns.y] %}{% endfor %}";
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% set x = 'ab' * 100000 %}{% for i in range(100000) %}{{ 'b' * 60000 in x }}{% endfor %}".to_owned(),
        "{% set x = 'ab' * 100000 %}{% for i in range(100000) %}{% if x|length %}{% endif %}{% endfor %}".to_owned(),
        "{% set x = range(100000)|list %}{% for i in x %}{{ x.index(99999) }}{% endfor %}".to_owned(),
        "{% set x = range(100000)|list %}{% for i in x %}{% if x|sort(reverse=true)|first %}{% endif %}{% endfor %}".to_owned(),
        format!("{tree}{{{{ ns.x == ns.y }}}}"),
        format!("{tree}{{{{ ns.x < ns.y }}}}"),
        format!("{tree}{{{{ ns.x in [ns.y] }}}}"),
        format!("{{{{ 'a' | map({}'e') | list }}}}", "'map', ".repeat(2000)),
        "{% set ns=namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x=(ns.x,ns.x) %}{% endfor %}{{ {ns.x: 1} }}".to_owned(),
        "{% set ns=namespace(x=[1]) %}{% for i in range(50000) %}{% for j in ns.x[0:] %}{% set ns.x=ns.x[0:]+[1] %}{% endfor %}{% endfor %}".to_owned(),
    ] {
        let said = refused(&source).message;
        assert!(said.contains("steps") || said.contains("more than"), "{source:.200}: {said}");
    }
    assert!(run(&"x".repeat(2 << 20), &[], Limits::for_input(0)).unwrap_err().message.contains("at most 1048576"));
}

#[test]
fn a_long_conversation_is_far_from_every_limit() {
    let turn = r#"{"role": "user", "content": "Some words of an average turn, which is not long."}"#;
    let messages: Value = serde_json::from_str(&format!("[{}{turn}]", format!("{turn},").repeat(1999))).unwrap();
    let template = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' }}{% if not loop.last and m.role not in ['user', 'x'] %}{{ raise_exception('no') }}{% endif %}{% endfor %}";
    let bytes = messages.bytes();
    let limits = Limits { steps: 100_000, ..Limits::for_input(bytes) };
    let text = run(template, &[("messages", messages)], limits).unwrap();
    assert_eq!(text.matches("<|im_start|>user\nSome").count(), 2000);
}

#[test]
fn generated_parts_are_marked_wherever_they_are_written() {
    let [open, close] = GENERATED;
    let source = "{% set x %}a{% generation %}b{{ 1 }}{% endgeneration %}{% endset %}[{{ x }}]\n{%- generation -%} c {% endgeneration %}";
    assert_eq!(render(source).unwrap(), format!("[a{open}b1{close}]{open}c {close}"));
    assert!(render("{% generation %}x").unwrap_err().message.contains("endgeneration"));
    assert!(render("{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}").is_err());
}
