//! The sparse image against a plain vector with a list of writes.

use proptest::prelude::*;

use super::*;

const SIZE_MAX: u64 = 20_000;

#[derive(Clone, Debug)]
enum Step {
    Write {
        offset: u64,
        size: u64,
        byte: u8,
    },
    Zero {
        offset: u64,
        size: u64,
    },
    Grow {
        len: u64,
    },
    /// Syncs all but the last so many changes.
    Persist {
        behind: u64,
    },
    PowerLoss {
        draw: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SIZE_MAX, 0..6_000u64, 1..=255u8).prop_map(|(offset, size, byte)| Step::Write { offset, size, byte }),
        2 => (0..SIZE_MAX, 0..9_000u64).prop_map(|(offset, size)| Step::Zero { offset, size }),
        1 => (0..SIZE_MAX).prop_map(|len| Step::Grow { len }),
        2 => (0..3u64).prop_map(|behind| Step::Persist { behind }),
        1 => any::<u64>().prop_map(|draw| Step::PowerLoss { draw }),
    ]
}

/// What the file may hold, byte by byte, written as simply as possible.
#[derive(Default)]
struct Model {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, u64, u8)>,
}

impl Model {
    fn put(content: &mut Vec<u8>, (offset, size, byte): (u64, u64, u8)) {
        let end = (offset + size) as usize;
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].fill(byte);
    }

    fn write(&mut self, change: (u64, u64, u8)) {
        Self::put(&mut self.cached, change);
        self.unsynced.push(change);
    }

    fn persist(&mut self, behind: usize) {
        let count = self.unsynced.len().saturating_sub(behind);
        for change in self.unsynced.drain(..count) {
            Self::put(&mut self.durable, change);
        }
    }

    /// True if a power loss may leave `found`: each sector of it is the durable one with some changes applied in order.
    fn allows(&self, found: &[u8]) -> bool {
        if found.len() < self.durable.len() {
            return false;
        }
        found.iter().enumerate().all(|(at, &byte)| {
            let durable = self.durable.get(at).copied().unwrap_or(0);
            let covers = |&&(offset, size, _): &&(u64, u64, u8)| (offset..offset + size).contains(&(at as u64));
            byte == durable || self.unsynced.iter().filter(covers).any(|&(.., new)| new == byte)
        })
    }
}

proptest! {
    #[test]
    fn an_image_is_a_vector_with_a_memory(steps in proptest::collection::vec(step(), 1..40)) {
        let mut image = Image::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Write { offset, size, byte } if size > 0 => {
                    image.write(0, offset, Bytes::from(vec![byte; size as usize]));
                    model.write((offset, size, byte));
                }
                Step::Zero { offset, size } if size > 0 => {
                    image.zero(0, offset, size);
                    model.write((offset, size, 0));
                }
                Step::Grow { len } if len > image.len() => {
                    image.grow(0, len);
                    let end = model.cached.len() as u64;
                    model.write((end, len - end, 0));
                }
                Step::Persist { behind } => {
                    image.persist(image.last_change().saturating_sub(behind));
                    model.persist(behind as usize);
                }
                Step::PowerLoss { draw } => {
                    image.power_loss(0, Fate::Drawn(Draw::new(draw, "test")), None, &mut Effects::default());
                    let found = image.read(0, image.len() as usize);
                    prop_assert!(model.allows(&found));
                    model = Model { cached: found.to_vec(), durable: found.to_vec(), unsynced: Vec::new() };
                }
                _ => {}
            }
            prop_assert_eq!(image.len(), model.cached.len() as u64);
            prop_assert!(image.read(0, image.len() as usize) == model.cached);
        }
        image.persist(u64::MAX);
        image.power_loss(0, Fate::Drawn(Draw::new(0, "test")), None, &mut Effects::default());
        prop_assert!(image.read(0, image.len() as usize) == model.cached, "synced bytes survive");
        prop_assert_eq!(image.unsynced_bytes(), 0);
    }
}

#[test]
fn a_large_sparse_file_takes_no_memory() {
    let mut image = Image::default();
    image.grow(0, 1 << 40);
    image.write(0, 1 << 39, Bytes::from_static(b"here"));
    image.zero(0, 0, 1 << 40);
    image.persist(u64::MAX);
    image.grow(0, 1 << 41);
    assert_eq!(image.written_bytes(), 0);
    assert_eq!(image.read((1 << 41) - 5, 5), vec![0; 5]);
}
