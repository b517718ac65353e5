//! What a plugin may do before anyone agreed to it: nothing. Each constructor here is real code in a real library.

mod support;

use std::{fs, path::Path, time::Duration};

use support::{altered_plugin, library_with_constructor, probe_options, raw_plugin, write};
use tempfile::{TempDir, tempdir};
use unswag_loader::{PluginFile, Probe, ProbeError, ProbeFailure, ProbeOptions, Stage, probe_with};

fn probe(path: &Path) -> Result<Probe, ProbeError> {
    probe_with(&PluginFile::read(path).unwrap(), &probe_options())
}

/// Probes a library whose constructor runs `body`. The folder is where it lies.
fn probe_constructor(body: &str) -> (TempDir, ProbeError) {
    let folder = tempdir().unwrap();
    let library = library_with_constructor(folder.path(), body);
    let error = probe(&library).expect_err("a library with nothing in it passes no probe");
    println!("{error}");
    (folder, error)
}

#[test]
fn a_plugin_says_what_it_is() {
    let probe = probe(&raw_plugin()).unwrap();
    assert_eq!(probe.manifest.name, "raw");
    assert_eq!(probe.manifest.protocols[0].ops, ["raw.double"]);
    assert_eq!(probe.output, None);
}

/// On this kernel or another: what is said must be what holds. The other tests show that it holds.
#[test]
fn the_active_protections_are_told() {
    let sandbox = probe(&raw_plugin()).unwrap().sandbox;
    println!("{sandbox}");
    assert!(sandbox.seccomp && sandbox.limits);
    let kernel_has_landlock = fs::read_to_string("/sys/kernel/security/lsm").map(|list| list.contains("landlock"));
    if let Ok(has) = kernel_has_landlock {
        assert_eq!(sandbox.landlock.is_some(), has);
    }
}

#[test]
fn a_crash_is_told_by_its_signal() {
    for (body, signal) in [
        ("*(volatile int *)8 = 1;", "SIGSEGV"),
        ("abort();", "SIGABRT"),
        ("__builtin_trap();", "SIGILL"),
        ("kill(getpid(), SIGKILL);", "SIGKILL"),
    ] {
        let (_folder, error) = probe_constructor(body);
        assert!(
            matches!(&error.failure, ProbeFailure::Killed(Stage::Constructors, found) if *found == signal),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("its constructor was killed by {signal}")));
    }
}

#[test]
fn an_exit_is_not_taken_for_success() {
    for (body, status) in [("exit(0);", 0), ("exit(3);", 3), ("_exit(0);", 0)] {
        let (_folder, error) = probe_constructor(body);
        assert!(
            matches!(error.failure, ProbeFailure::Exited(Stage::Constructors, found) if found == status),
            "{error}"
        );
    }
}

#[test]
fn waiting_for_ever_ends_at_the_time_limit() {
    let folder = tempdir().unwrap();
    let library = library_with_constructor(folder.path(), "for (;;) sleep(1000);");
    let options = ProbeOptions { time_limit: Duration::from_millis(700), ..probe_options() };
    let error = probe_with(&PluginFile::read(library).unwrap(), &options).unwrap_err();
    assert!(matches!(error.failure, ProbeFailure::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains("ran past 0.7 s"), "{error}");
}

#[test]
fn computing_for_ever_ends_at_the_processor_limit() {
    let (_folder, error) = probe_constructor("for (volatile int i = 0;; i++) ;");
    assert!(matches!(error.failure, ProbeFailure::CpuLimit(Stage::Constructors)), "{error}");
}

#[test]
fn ignoring_the_processor_limit_ends_too() {
    let (_folder, error) = probe_constructor("signal(SIGXCPU, SIG_IGN); for (volatile int i = 0;; i++) ;");
    assert!(matches!(error.failure, ProbeFailure::Killed(_, "SIGKILL")), "{error}");
}

#[test]
fn allocating_for_ever_ends() {
    let (_folder, error) = probe_constructor("for (;;) { char *p = malloc(1 << 24); if (!p) abort(); *p = 1; }");
    assert!(matches!(error.failure, ProbeFailure::Killed(_, "SIGABRT")), "{error}");
}

/// The call is refused, the plugin fails the probe, and the user hears which call it was.
#[track_caller]
fn assert_refused(body: &str, call: &str) -> TempDir {
    let (folder, error) = probe_constructor(body);
    match &error.failure {
        ProbeFailure::Refused { stage: Stage::Constructors, calls } => {
            assert!(calls.iter().any(|name| name.starts_with(call)), "{calls:?}: expected {call}");
        }
        // glibc starts programs with all signals blocked: then the kernel ends the process at once.
        ProbeFailure::Forbidden(_) if call == "posix_spawn" => {}
        _ => panic!("{error}"),
    }
    folder
}

#[test]
fn no_process_can_be_started() {
    assert_refused("if (fork() >= 0) abort();", "clone");
    assert_refused("if (vfork() >= 0) abort();", "vfork");
    assert_refused("syscall(SYS_fork);", "fork");
    assert_refused("execl(\"/bin/sh\", \"sh\", \"-c\", \"exit 7\", (char *)0);", "execve");
    assert_refused(
        "char *a[] = {\"true\", 0}; pid_t p; posix_spawn(&p, \"/bin/true\", 0, 0, a, environ);",
        "posix_spawn",
    );
}

#[test]
fn no_socket_can_be_opened() {
    assert_refused("if (socket(AF_INET, SOCK_STREAM, 0) >= 0) abort();", "socket");
    assert_refused("if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0) abort();", "socket");
}

#[test]
fn no_other_process_can_be_touched() {
    assert_refused("if (kill(getppid(), 0) == 0) abort();", "kill");
    assert_refused("if (ptrace(PTRACE_TRACEME, 0, 0, 0) == 0) abort();", "ptrace");
    assert_refused("syscall(SYS_tgkill, getppid(), getppid(), 0);", "tgkill");
}

#[test]
fn no_file_can_be_written() {
    let elsewhere = tempdir().unwrap();
    let home = std::env::var("HOME").unwrap();
    let targets = [
        "made-by-constructor".into(),
        elsewhere.path().join("made-by-constructor"),
        Path::new(&home).join(format!("made-by-constructor-{}", std::process::id())),
        std::env::current_dir().unwrap().join("made-by-constructor"),
    ];
    for target in targets {
        let body = format!("int f = open(\"{}\", O_WRONLY | O_CREAT, 0644); if (f >= 0) abort();", target.display());
        let folder = assert_refused(&body, "open");
        assert!(!target.exists(), "{}", target.display());
        assert!(!folder.path().join("made-by-constructor").exists());
        assert!(!Path::new("/made-by-constructor").exists());
    }
    // Nor changed in any other way.
    let kept = write(elsewhere.path(), "kept", b"kept");
    for body in ["unlink(\"{}\");", "truncate(\"{}\", 0);", "rename(\"{}\", \"{}-moved\");", "chmod(\"{}\", 0);"] {
        let call = body.split('(').next().unwrap();
        assert_refused(&body.replace("{}", kept.to_str().unwrap()), call);
        assert_eq!(fs::read(&kept).unwrap(), b"kept");
    }
}

/// A refused call goes on with EPERM: a constructor that does not mind gets no further than one that does.
#[test]
fn a_refused_call_fails_with_eperm() {
    let (_folder, error) = probe_constructor("if (fork() != -1 || errno != EPERM) abort(); _exit(9);");
    assert!(matches!(error.failure, ProbeFailure::Refused { .. }), "{error}");
}

/// Landlock alone stands between a constructor and the user's files when it only reads.
#[test]
fn the_users_files_cannot_be_read() {
    if probe(&raw_plugin()).unwrap().sandbox.landlock.is_none() {
        println!("this kernel has no Landlock");
        return;
    }
    let folder = tempdir().unwrap();
    let secret = write(folder.path(), "secret", b"the users secret");
    let (_folder, error) = probe_constructor(&format!(
        "char b[64] = {{0}}; int f = open(\"{}\", O_RDONLY); \
         printf(\"open: %d errno %d\\n\", f, errno); fflush(stdout); _exit(f < 0 && errno == EACCES ? 21 : 22);",
        secret.display()
    ));
    assert!(matches!(error.failure, ProbeFailure::Exited(_, 21)), "{error}");
}

#[test]
fn no_environment_and_no_open_file_is_inherited() {
    let (_folder, error) = probe_constructor(
        "int n = 0; for (char **e = environ; *e; e++) n++; \
         for (int fd = 3; fd < 1000; fd++) if (fcntl(fd, F_GETFD) >= 0) n += 100; \
         char c; if (read(0, &c, 1) != 0) n += 10; \
         char d[99]; if (!getcwd(d, 99) || strcmp(d, \"/\")) n += 20; _exit(n);",
    );
    // Nothing in the environment, an empty standard input, `/` as the folder; open are the library and the report.
    assert!(matches!(error.failure, ProbeFailure::Exited(_, 200)), "{error}");
}

#[test]
fn a_thread_may_be_started() {
    let (_folder, error) =
        probe_constructor("pthread_t t; if (pthread_create(&t, 0, idle, 0)) _exit(1); pthread_join(t, 0); _exit(42);");
    assert!(matches!(error.failure, ProbeFailure::Exited(_, 42)), "{error}");
}

#[test]
fn what_it_prints_is_kept_apart_from_what_it_answers() {
    let (_folder, error) =
        probe_constructor("printf(\"hello\\n\"); fflush(stdout); fprintf(stderr, \"there\\033[2J\");");
    let output = error.output.as_deref().unwrap();
    assert!(output.contains("hello there") && !output.contains('\u{1b}'), "{output}");
    assert!(matches!(error.failure, ProbeFailure::DoesNotOpen(_)), "{error}");
}

#[test]
fn printing_without_end_costs_no_memory() {
    let folder = tempdir().unwrap();
    let library = library_with_constructor(folder.path(), "static char b[65536]; for (;;) write(2, b, sizeof b);");
    let options = ProbeOptions { time_limit: Duration::from_secs(2), ..probe_options() };
    let error = probe_with(&PluginFile::read(library).unwrap(), &options).unwrap_err();
    assert!(matches!(error.failure, ProbeFailure::TimedOut { .. } | ProbeFailure::CpuLimit(_)), "{error}");
}

/// Runs `body` on the pipe that the report goes through, which a plugin can find; then `after`.
fn to_the_report(body: &str, after: &str) -> String {
    format!(
        "struct stat s; for (int fd = 3; fd < 200; fd++) if (!fstat(fd, &s) && S_ISFIFO(s.st_mode)) {{ {body} }} {after}"
    )
}

#[test]
fn garbage_in_the_report_is_said_to_be_garbage() {
    let (_folder, error) = probe_constructor(&to_the_report("write(fd, \"no report\\n\", 10);", "_exit(0);"));
    assert!(matches!(error.failure, ProbeFailure::Garbage(_)), "{error}");
}

#[test]
fn flooding_the_report_is_cut_off() {
    let (_folder, error) = probe_constructor(&to_the_report(
        "static char b[65536]; memset(b, 'x', sizeof b); for (;;) write(fd, b, sizeof b);",
        "",
    ));
    assert!(
        matches!(error.failure, ProbeFailure::Garbage(_) | ProbeFailure::CpuLimit(_) | ProbeFailure::Killed(..)),
        "{error}"
    );
}

/// A forged report is worth what a manifest is worth: the plugin's own word. It cannot claim a sandbox.
#[test]
fn a_forged_report_cannot_claim_another_sandbox() {
    let (_folder, error) = probe_constructor(&to_the_report(
        "const char *r = \"P {\\\"landlock\\\":99,\\\"seccomp\\\":true,\\\"limits\\\":true}\\n\"; write(fd, r, strlen(r));",
        "abort();",
    ));
    assert_ne!(error.sandbox.unwrap().landlock, Some(99));
}

#[test]
fn a_missing_dependency_is_named() {
    let folder = tempdir().unwrap();
    let needs = altered_plugin(folder.path(), "libgcc_s.so.1", "libnot_h.so.1");
    let error = probe(&needs).unwrap_err();
    assert!(error.to_string().contains("libnot_h.so.1: cannot open shared object file"), "{error}");
}

#[test]
fn another_version_of_the_frame_is_named() {
    let folder = tempdir().unwrap();
    let newer = altered_plugin(folder.path(), "1.0.0", "2.0.0");
    let error = probe(&newer).unwrap_err();
    assert!(error.to_string().contains("version 2.0.0 of the plugin frame, this unswag has 1.0.0"), "{error}");
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let folder = tempdir().unwrap();
    for (from, to, said) in [
        (r#""abi":1"#, r#""abi":7"#, "speaks ABI 7, this unswag speaks ABI 1; use a newer unswag"),
        (r#""panic":"unwind""#, r#""panic":"abort" "#, "panic=abort"),
        (r#""id":"raw""#, r#""id":"RAW""#, "no protocol id"),
        (r#""id":"needy""#, r#""id":  "raw""#, "`raw` stands twice"),
        (r#""ops":["raw.double"]"#, r#""ops":["raw_double"]"#, "could be a host primitive"),
        (r#""default":64"#, r#""default": 0"#, "its own default 0: expected an integer from 1 to 4096"),
        (r#"{"abi":1"#, r#"["abi":1"#, "not a manifest"),
    ] {
        let error = probe(&altered_plugin(folder.path(), from, to)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}
