//! Lets tests and examples find the libtorch that they were linked to.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH") else { return };
    let lib = std::path::Path::new(&libtorch).join("lib");
    // An old-style path: a new-style one is not used for what libtorch itself asks for.
    for kind in ["tests", "examples"] {
        println!("cargo:rustc-link-arg-{kind}=-Wl,--disable-new-dtags,-rpath,{}", lib.display());
    }
}
