//! Simulated runtime: our own TCP, disk and clocks on the madsim executor.

#[cfg(not(madsim))]
compile_error!(
    "runtime-sim needs `--cfg madsim`: run cargo inside the repository and unset RUSTFLAGS, which replaces .cargo/config.toml"
);
