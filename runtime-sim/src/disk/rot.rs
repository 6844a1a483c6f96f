//! Bits that flip on the device, and in memory if wanted.

use std::path::Path;

use super::tree::{Name, normal};
use super::{Disk, NO_FILE, Purpose};

impl Disk {
    pub(crate) fn rot(&mut self, under: &Path, bits: u64) -> u64 {
        let files: Vec<u64> = self.tree.files_below(&normal(under)).collect();
        let sizes: Vec<u64> = files
            .iter()
            .map(|file| self.inodes[file].image.written_bytes())
            .collect();
        let total: u64 = sizes.iter().sum();
        if total == 0 {
            return 0;
        }
        for _ in 0..bits {
            let draw = self.next_draw(Purpose::Rot, NO_FILE);
            let mut position = draw.below(total);
            for (file, size) in files.iter().zip(&sizes) {
                if position < *size {
                    let inode = self.inodes.get_mut(file).expect("listed above");
                    inode.image.flip(position, (draw.with(1).bits() % 8) as u8);
                    break;
                }
                position -= size;
            }
        }
        bits
    }

    pub(crate) fn rot_at(&mut self, path: &Path, offset: u64, mask: u8, in_memory: bool) -> bool {
        let Some(Name::File(file)) = self.tree.get(&normal(path)) else {
            return false;
        };
        self.inode(file).image.rot(offset, mask, in_memory)
    }
}
