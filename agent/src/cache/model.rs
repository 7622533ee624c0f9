// SPDX-License-Identifier: Apache-2.0
//! Every interleaving of readers and the writer, within the bounds of the model checker
//! (`make model`).

use loom::thread;

use super::cell::Handle;
use super::memory::Memory;
use super::table::{Table, TableWriter};

const TAG: u32 = 5;

fn publish(writer: &mut TableWriter, handle: u32, octets: &[u8]) {
    writer.publish(TAG, Handle(handle), octets);
}

/// Looks twice within one session: what was found first must still be what it was.
fn look(reader: &mut super::table::Reader, key: u8) -> Option<u8> {
    let online = reader.online();
    let (_, octets) = online.find(TAG, |octets| octets.first() == Some(&key))?;
    let (first, mark) = (octets[0], octets[1]);
    assert_eq!(first, key, "another key's cell");
    thread::yield_now();
    // A fill of this cell while the session lasts is a race that the checker reports here.
    let again = online.find(TAG, |octets| octets.first() == Some(&key));
    if let Some((_, octets)) = again {
        assert!(octets[1] >= mark, "an older answer came back");
    }
    Some(mark)
}

/// Hands cells that are free to whoever wants one next, and scribbles over them at once.
fn collect(writer: &mut TableWriter) -> Vec<Handle> {
    let mut free = Vec::new();
    writer.collect(|_, handle| free.push(handle));
    free
}

#[test]
fn a_cell_is_never_used_anew_while_a_reader_holds_it() {
    loom::model(|| {
        let (table, mut writer) = Table::new(Memory::new(), 1);
        let mut reader = table.reader().unwrap();
        publish(&mut writer, 1, &[9, 1]);
        let looking = thread::spawn(move || look(&mut reader, 9));
        writer.replace(TAG, Handle(1), Handle(2), &[9, 2]);
        // The old cell goes to another key as soon as it may.
        for handle in collect(&mut writer) {
            publish(&mut writer, handle.0, &[8, 0]);
        }
        let mark = looking.join().unwrap();
        assert!(mark.is_some(), "a name that is replaced is never missing");
    });
}

#[test]
fn a_removed_cell_is_never_used_anew_while_a_reader_holds_it() {
    loom::model(|| {
        let (table, mut writer) = Table::new(Memory::new(), 1);
        let mut reader = table.reader().unwrap();
        publish(&mut writer, 1, &[9, 1]);
        let looking = thread::spawn(move || {
            look(&mut reader, 9);
            look(&mut reader, 9)
        });
        writer.remove(TAG, Handle(1));
        for handle in collect(&mut writer) {
            publish(&mut writer, handle.0, &[9, 3]);
        }
        assert!(matches!(looking.join().unwrap(), None | Some(1 | 3)));
    });
}

#[test]
fn an_array_that_grows_under_a_reader_loses_nothing() {
    loom::model(|| {
        let (table, mut writer) = Table::new(Memory::new(), 1);
        let mut reader = table.reader().unwrap();
        publish(&mut writer, 1, &[9, 1]);
        let looking = thread::spawn(move || look(&mut reader, 9));
        // The first array has two slots: both of these make a larger one.
        publish(&mut writer, 2, &[7, 0]);
        publish(&mut writer, 3, &[6, 0]);
        collect(&mut writer);
        assert_eq!(looking.join().unwrap(), Some(1));
    });
}

#[test]
fn two_readers_hold_up_the_writer_each_for_itself() {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(|| {
        let (table, mut writer) = Table::new(Memory::new(), 2);
        publish(&mut writer, 1, &[9, 1]);
        let looking: Vec<_> = (0..2)
            .map(|_| {
                let mut reader = table.reader().unwrap();
                thread::spawn(move || look(&mut reader, 9))
            })
            .collect();
        writer.replace(TAG, Handle(1), Handle(2), &[9, 2]);
        for handle in collect(&mut writer) {
            publish(&mut writer, handle.0, &[8, 0]);
        }
        for thread in looking {
            assert!(thread.join().unwrap().is_some());
        }
    });
}
