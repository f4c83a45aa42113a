//! Deleting what no name and no hold needs any more.

use std::collections::HashSet;

use super::content::Content;
use crate::types::ImageError;

/// Collects if something may be garbage and nobody is adding anything. Otherwise the mark stays, and the
/// one who finishes last comes here again.
pub(crate) fn collect(content: &Content) -> Result<(), ImageError> {
    // Marked again meanwhile by one that couldn't get the lock because of us: another round.
    while content.is_garbage_marked() {
        let Some(_lock) = content.try_lock_alone()? else { return Ok(()) };
        content.clear_garbage_mark()?;
        if let Err(error) = sweep(content) {
            content.mark_garbage()?;
            return Err(error);
        }
    }
    Ok(())
}

fn sweep(content: &Content) -> Result<(), ImageError> {
    let (mut blobs, mut layers) = (HashSet::new(), HashSet::new());
    for record in content.records()? {
        for digest in [&record.manifest, &record.target, &record.config] {
            blobs.insert(digest.hex().to_owned());
        }
        for layer in &record.layers {
            blobs.insert(layer.blob.hex().to_owned());
            layers.insert(layer.diff_id.hex().to_owned());
        }
    }
    for hold in content.holds()? {
        layers.extend(hold.diff_ids.iter().map(|digest| digest.hex().to_owned()));
    }
    let nothing = HashSet::new();
    let mut deleted = 0;
    for (part, needed) in [("layers", &layers), ("blobs", &blobs), ("tmp", &nothing)] {
        for file in content.files(part)?.iter().filter(|file| !needed.contains(*file)) {
            // A layer leaves its place in one step, so that a collection cut short leaves no torn one.
            match part {
                "layers" => content.discard_layer(file)?,
                _ => content.delete(part, file)?,
            }
            deleted += 1;
        }
    }
    for file in content.files("locks")? {
        if file != "store" && file != "names" {
            content.delete("locks", &file)?;
        }
    }
    tracing::debug!(deleted, "collected what no image needs");
    Ok(())
}
