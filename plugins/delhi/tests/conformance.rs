//! Delhi as unswag sees it, through the library's own entry point: the suite that every plugin is held to.

use unswag_delhi::unswag_plugin;
use unswag_sdk::test::PluginTest;

#[test]
fn it_passes_the_conformance_suite() {
    let report = PluginTest::new(unswag_plugin()).check();
    println!("{report}");
    report.assert_passed();
}
