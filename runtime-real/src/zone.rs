//! The machine's time zone, as the C library knows it (`TZ`, `/etc/localtime`).

use orrery_core::runtime::WallMillis;

/// Seconds that local time is ahead of UTC at `at`; 0 if the C library cannot say.
pub(crate) fn utc_offset_seconds(at: WallMillis) -> i32 {
    let seconds: libc::time_t = at.0.div_euclid(1000);
    // SAFETY: `tm` is plain numbers and a pointer, for which zero is a value. Both arguments live during the call, and
    // `localtime_r` writes nothing but its second one. Nothing in this crate changes the environment that it reads.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&seconds, &mut tm).is_null() {
            return 0;
        }
        tm
    };
    i32::try_from(tm.tm_gmtoff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_that_of_some_time_zone() {
        let offset = utc_offset_seconds(WallMillis(1_700_000_000_000));
        assert!((-13 * 3600..=15 * 3600).contains(&offset), "{offset}");
    }
}
