//! The files that pages load: one style sheet, one script and one icon, compiled into the binary.

/// A file that never changes under its address, because the address contains a hash of the content.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// File name, the last part of the path.
    pub name: &'static str,
    /// Media type.
    pub media_type: &'static str,
    /// File content.
    pub content: &'static str,
}

/// The style sheet.
pub const STYLE: Asset = Asset {
    name: "inroad.css",
    media_type: "text/css; charset=utf-8",
    content: concat!(include_str!("../asset/style.css"), include_str!("../asset/chart.css")),
};
/// The script.
pub const SCRIPT: Asset = Asset {
    name: "inroad.js",
    media_type: "text/javascript; charset=utf-8",
    content: include_str!("../asset/inroad.js"),
};
/// The icon.
pub const ICON: Asset =
    Asset { name: "inroad.svg", media_type: "image/svg+xml", content: include_str!("../asset/inroad.svg") };

impl Asset {
    /// The path with an FNV-1a hash of the content. Changed content has another path, so browsers may cache the file
    /// forever.
    #[must_use]
    pub fn path(&self) -> String {
        let hash = self
            .content
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("/assets/{hash:016x}/{}", self.name)
    }
}
