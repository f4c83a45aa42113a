//! The images of demo and tests, as OCI archives under the names that the manifests use.
//!
//! Each is one layer: Debian's static busybox with a link for each of its applets, and one of the
//! programs of `tests/programs`. Layers are made the same each time, so digests are stable.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::build;

const BUSYBOX: &str = "/bin/busybox";

struct Image {
    /// Also the archive's file name, `/` and `:` aside.
    name: &'static str,
    /// Of `tests/programs`; the first is what the image runs.
    programs: &'static [&'static str],
    cmd: &'static [&'static str],
    port: Option<u16>,
    /// Whom it runs as, where that is not root.
    user: &'static str,
}

const IMAGES: &[Image] = &[
    Image { name: "alpine:latest", programs: &[], cmd: &["/bin/sh"], port: None, user: "" },
    Image { name: "nginx:latest", programs: &["nginx"], cmd: &["/usr/bin/nginx"], port: Some(80), user: "" },
    Image {
        name: "luksa/kubia:latest",
        programs: &["kubia"],
        cmd: &["/usr/bin/kubia"],
        port: Some(8080),
        user: "",
    },
    Image {
        name: "codelieche/simpleweb:v1",
        programs: &["simpleweb"],
        cmd: &["/usr/bin/simpleweb"],
        port: Some(8080),
        user: "",
    },
    Image { name: "skiff/web-user:v1", programs: &[], cmd: &["/bin/sh"], port: None, user: "web:logs" },
    Image { name: "skiff/attacker:v1", programs: &["attacker"], cmd: &["/bin/sh"], port: None, user: "" },
    Image { name: "skiff/peer:v1", programs: &["peer"], cmd: &["/bin/sh"], port: None, user: "" },
];

/// Builds all images into a directory and returns the archives.
pub(crate) fn build(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let programs = build::programs()?;
    let busybox = fs::read(BUSYBOX).context("cannot read /bin/busybox: run `cargo xtask setup`")?;
    let applets = build::output(Command::new(BUSYBOX).arg("--list"))?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    IMAGES.iter().map(|image| write(image, dir, &programs, &busybox, &applets)).collect()
}

fn write(
    image: &Image,
    dir: &Path,
    programs: &Path,
    busybox: &[u8],
    applets: &str,
) -> anyhow::Result<PathBuf> {
    let mut layer = Builder::new(Vec::new());
    for path in ["bin/", "dev/", "etc/", "proc/", "root/", "sys/", "usr/", "usr/bin/", "var/"] {
        entry(&mut layer, path, EntryType::Directory, 0o755, &[], None)?;
    }
    entry(&mut layer, "tmp/", EntryType::Directory, 0o1777, &[], None)?;
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let group = b"root:x:0:\nlogs:x:4:web\nweb:x:33:\nnogroup:x:65534:\n";
    entry(&mut layer, "etc/passwd", EntryType::Regular, 0o644, passwd.as_bytes(), None)?;
    entry(&mut layer, "etc/group", EntryType::Regular, 0o644, group, None)?;
    entry(&mut layer, "bin/busybox", EntryType::Regular, 0o755, busybox, None)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        entry(&mut layer, &format!("bin/{applet}"), EntryType::Symlink, 0o777, &[], Some("/bin/busybox"))?;
    }
    for program in image.programs {
        let bytes =
            fs::read(programs.join(program)).with_context(|| format!("cannot read the program {program}"))?;
        entry(&mut layer, &format!("usr/bin/{program}"), EntryType::Regular, 0o755, &bytes, None)?;
    }
    let layer = layer.into_inner().context("cannot finish the layer")?;

    let ports = image.port.map(|port| json!({ format!("{port}/tcp"): {} })).unwrap_or(json!({}));
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": image.cmd,
            "ExposedPorts": ports,
            "User": image.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = serde_json::to_vec(&config)?;
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", &layer)],
    }))?;
    let mut named = descriptor("manifest.v1+json", &manifest);
    named["annotations"] = json!({"io.containerd.image.name": full_name(image.name)});
    let index = json!({"schemaVersion": 2, "manifests": [named]});

    let path = dir.join(format!("{}.tar", image.name.replace(['/', ':'], "-")));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Builder::new(file);
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    entry(&mut archive, "oci-layout", EntryType::Regular, 0o644, layout, None)?;
    entry(&mut archive, "index.json", EntryType::Regular, 0o644, &serde_json::to_vec(&index)?, None)?;
    for blob in [&config, &layer, &manifest] {
        let name = format!("blobs/{}", digest(blob).replace(':', "/"));
        entry(&mut archive, &name, EntryType::Regular, 0o644, blob, None)?;
    }
    archive.finish().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// This machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn full_name(name: &str) -> String {
    if name.contains('/') { format!("docker.io/{name}") } else { format!("docker.io/library/{name}") }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn entry<W: std::io::Write>(
    archive: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
    link: Option<&str>,
) -> anyhow::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    let context = || format!("cannot add {path}");
    match link {
        Some(target) => archive.append_link(&mut header, path, target).with_context(context),
        None => archive.append_data(&mut header, path, bytes).with_context(context),
    }
}
