//! The protocol, explored: every order in which what can happen may happen, within bounds, with
//! the functions that agent and site server call. Each protection is also taken away, and the same
//! model must find that.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test fails by panicking and says how much it saw

mod world;

use std::time::Instant;

use stateright::{Checker, Model, Property};

use world::{Action, Budget, Without, World};

const NO_GOING_BACK: &str = "a state that is held never goes back within an epoch";
const COMPLETE: &str = "what is recorded without a gap is all there";
const HEALS: &str = "once faults stop, what is held is what is so, and a fork is seen";
/// One that was put back can be when several of its reports from before come in between others.
const NO_FALSE_FORK: &str = "one machine is never taken for two";

#[derive(Debug, Clone)]
struct Protocol {
    clients: u8,
    budget: Budget,
    without: Without,
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.clients, self.budget)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        let mut next = state.clone();
        next.act(action, self.without)?;
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_GOING_BACK, |_, world: &World| {
                world.reused || !world.went_back
            }),
            Property::always(COMPLETE, |_, world: &World| {
                world.reused || world.recorded_is_complete()
            }),
            Property::always(HEALS, |model: &Self, world: &World| {
                world.heals(model.without).is_ok()
            }),
            Property::always(NO_FALSE_FORK, |_, world: &World| {
                let excused = world.cloned || world.confused;
                excused
                    || world
                        .site
                        .iter()
                        .all(|kept| kept.stream.forked_at.is_none())
            }),
        ]
    }
}

/// Explores everything; prints how much that was.
fn holds(name: &str, clients: u8, budget: Budget) {
    let begun = Instant::now();
    let without = Without::Nothing;
    let model = Protocol {
        clients,
        budget,
        without,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        let last = path.last_state().clone();
        let why = last.heals(without);
        panic!(
            "{name}: not so: {property}: {why:?}\n{:?}",
            path.into_actions()
        );
    }
}

/// The same model must find that a protection is gone.
fn is_found(without: Without, property: &'static str, budget: Budget) {
    let model = Protocol {
        clients: 1,
        budget,
        without,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("without {without:?} nothing is seen"));
    println!("without {without:?}: {:?}", path.into_actions());
}

#[test]
fn a_network_that_repeats_reorders_and_loses() {
    holds(
        "network",
        1,
        Budget {
            changes: 3,
            duplicates: 1,
            broker_losses: 1,
            lost_answers: 1,
            asks: 1,
            ..Budget::NONE
        },
    );
}

#[test]
fn two_clients_do_not_disturb_each_other() {
    holds(
        "two clients",
        2,
        Budget {
            changes: 2,
            duplicates: 1,
            broker_losses: 1,
            lost_answers: 1,
            asks: 1,
            ..Budget::NONE
        },
    );
}

#[test]
fn a_client_that_is_killed_anywhere() {
    holds(
        "crashes",
        1,
        Budget {
            changes: 3,
            crashes: 1,
            lost_answers: 1,
            broker_losses: 1,
            asks: 1,
            ..Budget::NONE
        },
    );
}

#[test]
fn a_database_that_is_put_back() {
    holds(
        "restored database",
        1,
        Budget {
            changes: 3,
            database_restores: 1,
            lost_answers: 1,
            ..Budget::NONE
        },
    );
}

/// A machine whose disk goes back as a whole, spool and mark and all, beside everything else that
/// may happen to it.
const PUT_BACK: Budget = Budget {
    changes: 2,
    machine_restores: 1,
    ..Budget::NONE
};

#[test]
fn a_machine_that_is_put_back_as_a_whole() {
    holds(
        "restored machine",
        1,
        Budget {
            lost_answers: 1,
            broker_losses: 1,
            crashes: 1,
            asks: 1,
            ..PUT_BACK
        },
    );
    holds(
        "restored machine, repeats",
        1,
        Budget {
            duplicates: 1,
            lost_answers: 1,
            demands: 1,
            ..PUT_BACK
        },
    );
}

#[test]
fn a_machine_that_is_put_back_twice() {
    holds(
        "machine restored twice",
        1,
        Budget {
            machine_restores: 2,
            newer_copies: 1,
            broker_losses: 1,
            ..PUT_BACK
        },
    );
}

#[test]
#[ignore = "minutes: the figures are in the documentation of the crate"]
fn machines_that_are_put_back_within_wider_bounds() {
    let wide = Budget {
        changes: 3,
        ..PUT_BACK
    };
    let (asks, lost_answers) = (1, 1);
    for budget in [
        Budget {
            lost_answers,
            asks,
            ..wide
        },
        Budget {
            broker_losses: 1,
            crashes: 1,
            asks,
            ..wide
        },
        Budget {
            machine_restores: 2,
            newer_copies: 1,
            broker_losses: 2,
            ..wide
        },
        Budget {
            duplicates: 1,
            lost_answers,
            demands: 1,
            ..wide
        },
    ] {
        holds(&format!("{budget:?}"), 1, budget);
    }
}

#[test]
#[ignore = "minutes: the figures are in the documentation of the crate"]
fn machines_that_are_put_back_twice_and_killed_in_between() {
    holds(
        "machine restored twice and killed",
        1,
        Budget {
            machine_restores: 2,
            newer_copies: 1,
            broker_losses: 1,
            crashes: 1,
            asks: 1,
            ..PUT_BACK
        },
    );
}

#[test]
fn a_restored_machine_is_found_when_reports_do_not_say_what_they_build_on() {
    let budget = Budget {
        changes: 3,
        asks: 1,
        broker_losses: 1,
        ..PUT_BACK
    };
    is_found(Without::Given, HEALS, budget);
}

#[test]
fn a_restored_machine_is_found_when_runs_do_not_say_what_they_follow() {
    let budget = Budget {
        broker_losses: 1,
        crashes: 1,
        ..PUT_BACK
    };
    is_found(Without::After, HEALS, budget);
}

#[test]
fn what_was_put_back_is_one_machine_when_its_reports_keep_their_order() {
    // Whole machines: as above.
    holds(
        "put back twice, in order",
        1,
        Budget {
            changes: 2,
            database_restores: 2,
            duplicates: 1,
            in_order: true,
            ..Budget::NONE
        },
    );
}

#[test]
fn a_site_that_is_restored_from_a_backup() {
    holds(
        "restored site",
        1,
        Budget {
            changes: 3,
            site_restores: 1,
            demands: 1,
            asks: 1,
            ..Budget::NONE
        },
    );
}

#[test]
fn an_identity_that_lives_twice() {
    holds(
        "clone",
        1,
        Budget {
            changes: 3,
            clones: 1,
            asks: 1,
            ..Budget::NONE
        },
    );
}

#[test]
fn a_delta_over_a_gap_is_found() {
    let budget = Budget {
        changes: 2,
        broker_losses: 1,
        ..Budget::NONE
    };
    is_found(Without::Gaps, COMPLETE, budget);
}

#[test]
fn a_change_that_is_sent_before_it_is_saved_is_found() {
    let budget = Budget {
        changes: 2,
        lost_answers: 1,
        crashes: 1,
        ..Budget::NONE
    };
    is_found(Without::SaveBeforeSend, COMPLETE, budget);
}

#[test]
fn a_restored_database_without_mark_and_runs_is_found() {
    let budget = Budget {
        changes: 3,
        database_restores: 1,
        ..Budget::NONE
    };
    is_found(Without::MarkAndRuns, HEALS, budget);
}

#[test]
fn a_restored_machine_and_a_clone_without_runs_are_found() {
    for (machine_restores, clones) in [(1, 0), (0, 1)] {
        let budget = Budget {
            changes: 3,
            machine_restores,
            clones,
            ..Budget::NONE
        };
        is_found(Without::Runs, HEALS, budget);
    }
}

#[test]
fn ranges_from_before_a_full_report_are_found() {
    let budget = Budget {
        changes: 1,
        site_restores: 1,
        demands: 1,
        asks: 1,
        ..Budget::NONE
    };
    is_found(Without::FullAt, HEALS, budget);
}

#[test]
fn a_silent_client_without_heartbeat_is_found() {
    let budget = Budget {
        changes: 1,
        broker_losses: 1,
        ..Budget::NONE
    };
    is_found(Without::Heartbeat, HEALS, budget);
    is_found(Without::Wishes, HEALS, budget);
}
