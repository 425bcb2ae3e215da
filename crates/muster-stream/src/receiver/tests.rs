use super::*;

type Stream = Receiver<u64>;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

fn header(full: bool, first: u64, last: u64) -> Header {
    Header {
        epoch: 1,
        first,
        last,
        given: last,
        full,
        run: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn take(stream: &mut Stream, header: Header, second: i64) -> Taken<u64> {
    let retry = Retry::default();
    let moment = Moment {
        now: at(second),
        retry: &retry,
        random: 0,
    };
    stream.take(&header, || Some(header.last), &moment)
}

fn full(stream: &mut Stream, last: u64, second: i64) -> Taken<u64> {
    take(stream, header(true, 1, last), second)
}

fn delta(stream: &mut Stream, first: u64, last: u64, second: i64) -> Taken<u64> {
    take(stream, header(false, first, last), second)
}

fn ask(stream: &mut Stream, second: i64) -> Option<Wish> {
    let retry = Retry::default();
    stream.ask(&Moment {
        now: at(second),
        retry: &retry,
        random: 0,
    })
}

/// What would be asked for at that time.
fn wished(stream: &Stream, second: i64) -> Option<Wish> {
    ask(&mut stream.clone(), second)
}

fn range(first: u64, last: u64) -> SerialRange {
    SerialRange { first, last }
}

fn wanted(stream: &Stream, second: i64) -> Option<Wanted> {
    wished(stream, second).map(|wish| wish.wanted)
}

fn fresh() -> Stream {
    Stream {
        epoch: 1,
        wants_full: true,
        ..Default::default()
    }
}

#[test]
fn a_report_that_overtook_another_one_waits_for_it() {
    let mut stream = fresh();
    assert_eq!(full(&mut stream, 3, 0), Taken::Full(vec![]));
    assert!(!stream.wants_full);
    assert_eq!(delta(&mut stream, 6, 7, 1), Taken::Early);
    assert_eq!(stream.gap_since, Some(at(1)));
    assert_eq!(delta(&mut stream, 6, 7, 2), Taken::Repeat);
    assert_eq!(delta(&mut stream, 4, 5, 3), Taken::Next(vec![7]));
    assert_eq!((stream.contiguous, stream.highest), (7, 7));
    assert_eq!((stream.gap_since, stream.early.len()), (None, 0));
    assert_eq!(stream.ask_at, None);
}

#[test]
fn repeats_and_old_epochs_change_nothing() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    let held = stream.clone();
    assert_eq!(full(&mut stream, 3, 1), Taken::Repeat);
    assert_eq!(full(&mut stream, 2, 1), Taken::Repeat);
    assert_eq!(delta(&mut stream, 2, 3, 1), Taken::Repeat);
    assert_eq!(stream.judge(&header(false, 2, 3)), Some(Taken::Repeat));
    assert_eq!(stream, held);
    stream.epoch = 2;
    assert_eq!(full(&mut stream, 9, 1), Taken::Stale);
}

#[test]
fn a_delta_means_nothing_before_the_first_full_report() {
    let mut stream = fresh();
    assert_eq!(delta(&mut stream, 1, 2, 0), Taken::Early);
    assert_eq!(stream.contiguous, 0);
    assert_eq!(full(&mut stream, 4, 1), Taken::Full(vec![]));
    assert_eq!((stream.contiguous, stream.gap_since), (4, None));
}

#[test]
fn a_full_report_heals_a_gap_and_later_reports_stay() {
    let mut stream = fresh();
    full(&mut stream, 1, 0);
    delta(&mut stream, 4, 4, 1);
    delta(&mut stream, 6, 6, 2);
    assert_eq!(full(&mut stream, 5, 9), Taken::Full(vec![6]));
    assert_eq!((stream.contiguous, stream.gap_since), (6, None));
    // One that is older than the newest delta leaves a gap that is asked for again.
    delta(&mut stream, 9, 9, 10);
    assert_eq!(full(&mut stream, 7, 20), Taken::Full(vec![]));
    assert_eq!(stream.gap_since, Some(at(20)));
    assert_eq!(stream.missing(), [range(8, 8)]);
}

#[test]
fn what_waits_is_bounded_and_the_rest_is_missing() {
    let mut stream = fresh();
    full(&mut stream, 1, 0);
    for n in 0..20 {
        delta(&mut stream, 10 + 2 * n, 10 + 2 * n, 1);
    }
    assert_eq!(stream.early.len(), MAX_EARLY);
    assert_eq!(stream.highest, 48);
    let missing = stream.missing();
    assert_eq!((missing[0], missing[1]), (range(2, 9), range(11, 11)));
    assert_eq!(missing.last(), Some(&range(41, 48)));
}

#[test]
fn ranges_are_asked_for_after_minutes_then_everything_with_growing_pauses() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    delta(&mut stream, 6, 7, 0);
    delta(&mut stream, 9, 9, 1);
    assert_eq!(wanted(&stream, 2 * MINUTE - 1), None);
    let ranges = Wanted::Ranges(vec![range(4, 5), range(8, 8)]);
    assert_eq!(wanted(&stream, 2 * MINUTE), Some(ranges));
    ask(&mut stream, 2 * MINUTE);
    let asked = stream.asked().unwrap();
    assert_eq!((asked.1, asked.0.epoch), (1, 1));
    // One of them comes.
    assert_eq!(delta(&mut stream, 4, 5, 3 * MINUTE), Taken::Next(vec![7]));
    assert_eq!(wanted(&stream, 2 * HOUR), None);
    let ranges = Wanted::Ranges(vec![range(8, 8)]);
    let mut second = 2 * HOUR + 2 * MINUTE;
    assert_eq!(wanted(&stream, second), Some(ranges));
    for pause in [8, 24, 24, 24] {
        ask(&mut stream, second);
        second += pause * HOUR;
        assert_eq!(wanted(&stream, second - 1), None);
        assert_eq!(wanted(&stream, second), Some(Wanted::Full));
    }
    full(&mut stream, 9, second);
    assert_eq!((stream.ask_at, stream.tries), (None, 0));
    assert_eq!(wanted(&stream, second + 99 * HOUR), None);
}

#[test]
fn the_first_asking_is_spread() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    let retry = Retry::default();
    let moment = Moment {
        now: at(0),
        retry: &retry,
        random: u64::MAX,
    };
    stream.take(&header(false, 5, 5), || None, &moment);
    assert_eq!(wanted(&stream, 5 * MINUTE - 1), None);
    assert!(wanted(&stream, 5 * MINUTE).is_some());
}

#[test]
fn everything_is_asked_for_when_somebody_wants_it() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    stream.demand_full(at(5));
    assert_eq!(wanted(&stream, 5), Some(Wanted::Full));
    ask(&mut stream, 5);
    assert_eq!(stream.asked().unwrap().0.wanted, Wanted::Full);
    assert_eq!(wanted(&stream, 6), None);
    assert_eq!(full(&mut stream, 3, 7), Taken::Full(vec![]), "nothing new");
    assert_eq!(wanted(&stream, 99 * HOUR), None);
}

#[test]
fn an_epoch_that_the_site_does_not_remember_is_given_anew() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    let lost = Header {
        epoch: 4,
        ..header(false, 9, 9)
    };
    assert_eq!(stream.judge(&lost), None);
    assert_eq!(take(&mut stream, lost, 0), Taken::NeverGiven);
    let wish = wished(&stream, 2 * MINUTE).unwrap();
    assert_eq!((wish.epoch, wish.wanted), (4, Wanted::Register));
}

fn from_run(id: u64, began: u64, epoch: u32, last: u64) -> Header {
    Header {
        epoch,
        run: Some(Run {
            id,
            began,
            after: 0,
        }),
        ..header(false, last, last)
    }
}

#[test]
fn serials_that_were_given_twice_are_not_taken_for_repeats() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    take(&mut stream, from_run(1, 3, 1, 4), 0);
    take(&mut stream, from_run(1, 3, 1, 5), 0);
    // The whole machine goes back to serial 3; the mark beside the database went back with it.
    let reused = from_run(2, 3, 1, 4);
    assert_eq!(stream.judge(&reused), None);
    assert_eq!(take(&mut stream, reused, 1), Taken::Repeat);
    let wish = wished(&stream, 10 * MINUTE).unwrap();
    assert_eq!((wish.epoch, wish.wanted), (1, Wanted::Register));
    let retry = Retry::default();
    let moment = Moment {
        now: at(99),
        retry: &retry,
        random: 0,
    };
    stream.registered(2, &moment);
    take(
        &mut stream,
        Header {
            full: true,
            ..from_run(2, 3, 2, 4)
        },
        100,
    );
    assert_eq!(wished(&stream, 99 * HOUR), None);
    assert_eq!(stream.forked_at, None);
}

#[test]
fn who_is_left_behind_in_an_old_epoch_is_asked_to_register_and_not_for_ever() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    stream.epoch = 2;
    take(
        &mut stream,
        Header {
            full: true,
            ..from_run(1, 0, 2, 3)
        },
        0,
    );
    assert_eq!(take(&mut stream, from_run(7, 2, 1, 3), 1), Taken::Stale);
    let mut second = 10 * MINUTE;
    for _ in 0..3 {
        let wish = ask(&mut stream, second).unwrap();
        assert_eq!(stream.asked().unwrap().0, wish, "it stands until the next");
        assert_eq!((wish.epoch, wish.wanted), (1, Wanted::Register));
        second += 24 * HOUR;
    }
    assert_eq!(ask(&mut stream, second), None);
    assert_eq!(stream.asked(), None);
    // It had been switched off all that time.
    assert_eq!(
        take(&mut stream, from_run(7, 2, 1, 4), second),
        Taken::Stale
    );
    let wish = ask(&mut stream, second + 10 * MINUTE).unwrap();
    assert_eq!((wish.epoch, wish.wanted), (1, Wanted::Register));
    stream.register = None;
    // A late report of the program that has registered meanwhile is nothing.
    assert_eq!(take(&mut stream, from_run(1, 0, 1, 2), 1), Taken::Stale);
    assert_eq!(stream.register, None);
}

#[test]
fn an_identity_that_lives_twice_is_to_be_renewed() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    for (run, last) in [(1, 4), (2, 4), (1, 5), (2, 5), (1, 6)] {
        take(&mut stream, from_run(run, 3, 1, last), 10);
    }
    assert_eq!(stream.forked_at, Some(at(10)));
    assert_eq!(wanted(&stream, 10), Some(Wanted::RenewIdentity));
}

#[test]
fn everything_is_asked_for_after_a_run_of_which_nothing_came() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    take(&mut stream, from_run(1, 3, 1, 4), 0);
    // The machine goes back to serial 3; what it says then is lost, and it starts once more.
    let after_unheard = Header {
        run: Some(Run {
            id: 3,
            began: 5,
            after: 2,
        }),
        ..header(false, 4, 6)
    };
    assert_eq!(take(&mut stream, after_unheard, 1), Taken::Next(vec![]));
    assert_eq!(wanted(&stream, 2 * MINUTE + 1), Some(Wanted::Full));
    let everything = Header {
        full: true,
        first: 1,
        ..after_unheard
    };
    assert_eq!(take(&mut stream, everything, 2), Taken::Full(vec![]));
    assert_eq!((stream.ask_at, stream.register), (None, None));
}

#[test]
fn what_a_report_was_built_on_counts_as_seen_of_its_run() {
    let mut stream = fresh();
    full(&mut stream, 3, 0);
    let report = |id, began, given| Header {
        given,
        run: Some(Run {
            id,
            began,
            after: 0,
        }),
        ..header(false, 4, 4)
    };
    let before = stream.clone();
    take(&mut stream, report(1, 0, 6), 0);
    assert!(stream.turned(&before), "no mark says how far it came");
    assert_eq!((stream.highest, stream.gap_since), (4, None));
    // A machine that went back to serial 4 gives 5 and 6 again.
    take(&mut stream, report(2, 4, 5), 1);
    assert_eq!(stream.register, Some(1));
}

#[test]
fn what_overflows_is_healed_by_ranges_or_by_everything() {
    for ranges_answered in [true, false] {
        let mut stream = fresh();
        full(&mut stream, 1, 0);
        // Each second report comes, the last ones first: 16 of them wait, the others are not kept.
        for serial in (3..=99).rev().filter(|serial| serial % 2 == 1) {
            assert_eq!(delta(&mut stream, serial, serial, 1), Taken::Early);
        }
        assert_eq!(stream.early.len(), MAX_EARLY);
        let mut second = 2 * MINUTE + 1;
        let Some(Wanted::Ranges(ranges)) = wanted(&stream, second) else {
            panic!("ranges first");
        };
        assert_eq!(ranges[0], range(2, 68), "what was not kept is missing");
        if ranges_answered {
            for told in ranges {
                delta(&mut stream, told.first, told.last, second);
            }
        } else {
            for _ in 0..2 {
                ask(&mut stream, second).unwrap();
                second += 8 * HOUR;
            }
            assert_eq!(wanted(&stream, second), Some(Wanted::Full));
            full(&mut stream, 99, second);
        }
        assert_eq!((stream.contiguous, stream.highest), (99, 99));
        assert_eq!((stream.gap_since, stream.ask_at), (None, None));
        assert!(stream.early.is_empty());
    }
}
