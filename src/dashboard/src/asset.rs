//! What pages load beside themselves: one style sheet, one script, one icon, all our own and compiled in.

/// A file that is served as it is, for ever, under a name that its content gives it.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Its path, without the part that changes with the content.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// Its content.
    pub content: &'static str,
}

/// The style sheet.
pub const STYLE: Asset = Asset {
    name: "inroad.css",
    kind: "text/css; charset=utf-8",
    content: concat!(include_str!("../asset/style.css"), include_str!("../asset/chart.css")),
};
/// The script.
pub const SCRIPT: Asset =
    Asset { name: "inroad.js", kind: "text/javascript; charset=utf-8", content: include_str!("../asset/inroad.js") };
/// The icon.
pub const ICON: Asset =
    Asset { name: "inroad.svg", kind: "image/svg+xml", content: include_str!("../asset/inroad.svg") };

impl Asset {
    /// Where it is served. FNV-1a over the content: a new build is a new address, so that browsers may keep the old one.
    #[must_use]
    pub fn path(&self) -> String {
        let hash = self
            .content
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("/assets/{hash:016x}/{}", self.name)
    }
}
