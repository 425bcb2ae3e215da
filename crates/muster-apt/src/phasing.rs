//! Phased updates: whether apt would hold an update back on this machine (semantics.md 3).
//!
//! apt draws a number from 0 to 100 with C++'s `std::minstd_rand`, seeded by `std::seed_seq` from the
//! text `source-version-machineid`, and holds the update back when the number is above the update's
//! percentage. The three parts of the standard library are rebuilt here bit for bit (as libstdc++ has
//! them, which Debian's apt is built with); the test's numbers come from a C++ program.

/// How apt is told to treat phased updates on this machine (`APT::Get::…-Include-Phased-Updates`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Policy {
    /// Draw by the machine's id.
    #[default]
    ByMachine,
    /// Take every phased update; apt's choice in a chroot too.
    Always,
    /// Hold every update back that is not at 100.
    Never,
}

/// The verdict on one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is not phased, or fully rolled out.
    NotPhased,
    /// The machine is among those that get it now.
    Included,
    /// apt keeps the installed version for now.
    HeldBack {
        /// The machine's number, 0 to 100; the update comes when its percentage reaches it.
        draw: u8,
        /// The update's percentage today.
        percentage: u8,
    },
}

/// apt's verdict for the update `source`/`version` at `percentage` on a machine.
///
/// `suite` is the release's `Suite`; a name that ends in `-security` is never phased. Without a machine
/// id apt includes everything.
pub fn verdict(
    policy: Policy,
    source: &str,
    source_version: &str,
    percentage: Option<u8>,
    machine_id: Option<&str>,
    suite: Option<&str>,
) -> Verdict {
    let Some(percentage) = percentage.filter(|p| *p < 100) else {
        return Verdict::NotPhased;
    };
    if suite.is_some_and(|suite| suite.ends_with("-security")) {
        return Verdict::NotPhased;
    }
    let machine_id = machine_id.map(str::trim).filter(|id| !id.is_empty());
    match (policy, machine_id) {
        (Policy::Always, _) | (Policy::ByMachine, None) => Verdict::Included,
        (Policy::Never, None) => Verdict::HeldBack {
            draw: 100,
            percentage,
        },
        (Policy::Never, Some(id)) => Verdict::HeldBack {
            draw: draw(source, source_version, id),
            percentage,
        },
        (Policy::ByMachine, Some(id)) => match draw(source, source_version, id) {
            draw if draw > percentage => Verdict::HeldBack { draw, percentage },
            _ => Verdict::Included,
        },
    }
}

/// The number from 0 to 100 that apt draws for an update on a machine.
pub fn draw(source: &str, source_version: &str, machine_id: &str) -> u8 {
    draw_seeded(&format!("{source}-{source_version}-{machine_id}"))
}

/// `uniform_int_distribution<unsigned>(0, 100)` over `minstd_rand` over `seed_seq`.
fn draw_seeded(seed: &str) -> u8 {
    const MODULUS: u64 = 2_147_483_647;
    // The engine gives 1 to MODULUS - 1, so its range is MODULUS - 2.
    const SCALING: u64 = (MODULUS - 2) / 101;
    const PAST: u64 = 101 * SCALING;
    // linear_congruential_engine takes the last of four words of the seed sequence.
    let word = u64::from(seed_words(seed)[3]);
    let mut state = match word % MODULUS {
        0 => 1,
        other => other,
    };
    loop {
        state = state * 48_271 % MODULUS;
        let drawn = state - 1;
        if drawn < PAST {
            return u8::try_from(drawn / SCALING).unwrap_or(100);
        }
    }
}

/// `std::seed_seq::generate` for four words ([rand.util.seedseq] of the C++ standard).
fn seed_words(seed: &str) -> [u32; 4] {
    const N: usize = 4;
    // For four words: t = (n - 1) / 2 = 1, p = (n - t) / 2 = 1, q = p + t = 2.
    const P: usize = 1;
    const Q: usize = 2;
    // A char of C++ is signed on amd64; ids and versions are ASCII, where that makes no difference.
    let seed: Vec<u32> = seed.bytes().map(|b| i32::from(b as i8) as u32).collect();
    let mix = |x: u32| x ^ (x >> 27);
    let mut words = [0x8b8b_8b8b_u32; N];
    let rounds = (seed.len() + 1).max(N);
    for k in 0..rounds {
        let (here, at_p, at_q, before) = (k % N, (k + P) % N, (k + Q) % N, (k + N - 1) % N);
        let r1 = mix(words[here] ^ words[at_p] ^ words[before]).wrapping_mul(1_664_525);
        let extra = match k {
            0 => seed.len() as u32,
            k if k <= seed.len() => (here as u32).wrapping_add(seed[k - 1]),
            _ => here as u32,
        };
        let r2 = r1.wrapping_add(extra);
        words[at_p] = words[at_p].wrapping_add(r1);
        words[at_q] = words[at_q].wrapping_add(r2);
        words[here] = r2;
    }
    for k in rounds..rounds + N {
        let (here, at_p, at_q, before) = (k % N, (k + P) % N, (k + Q) % N, (k + N - 1) % N);
        let sum = words[here]
            .wrapping_add(words[at_p])
            .wrapping_add(words[before]);
        let r3 = mix(sum).wrapping_mul(1_566_083_941);
        let r4 = r3.wrapping_sub(here as u32);
        words[at_p] ^= r3;
        words[at_q] ^= r4;
        words[here] = r4;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by a C++ program: seed_seq over the text, minstd_rand, uniform_int_distribution(0, 100).
    const VECTORS: &[(&str, u8)] = &[
        ("a-1-b", 69),
        (
            "openssl-3.0.17-1~deb12u2-0123456789abcdef0123456789abcdef",
            53,
        ),
        ("linux-6.1.158-1-ffffffffffffffffffffffffffffffff", 38),
        ("", 63),
        ("apt-2.6.1-00000000000000000000000000000000", 1),
        ("src0-1.0-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e70", 5),
        ("src1-1.7-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e71", 0),
        ("src2-1.14-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e72", 20),
        ("src3-1.21-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e73", 99),
        ("src4-1.28-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e74", 49),
        ("src5-1.35-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e75", 72),
        ("src6-1.42-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e76", 28),
        ("src7-1.49-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e77", 29),
        ("src8-1.56-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e78", 1),
        ("src9-1.63-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e79", 14),
        ("src10-1.70-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e70", 89),
        ("src11-1.77-8c4d2b0e9f7a4c3d9e1f2a3b4c5d6e71", 77),
    ];

    #[test]
    fn the_draw_is_the_one_of_the_c_plus_plus_library() {
        for (seed, expected) in VECTORS {
            assert_eq!(draw_seeded(seed), *expected, "{seed}");
        }
    }

    #[test]
    fn the_verdict_follows_the_percentage_the_policy_and_the_suite() {
        let id = Some("0123456789abcdef0123456789abcdef\n");
        let ask = |policy, percentage, id, suite| {
            verdict(policy, "openssl", "3.0.17-1~deb12u2", percentage, id, suite)
        };
        let by = Policy::ByMachine;
        assert_eq!(
            ask(by, Some(52), id, None),
            Verdict::HeldBack {
                draw: 53,
                percentage: 52
            }
        );
        assert_eq!(ask(by, Some(53), id, None), Verdict::Included);
        assert_eq!(ask(by, Some(100), id, None), Verdict::NotPhased);
        assert_eq!(ask(by, None, id, None), Verdict::NotPhased);
        assert_eq!(
            ask(by, Some(0), id, Some("jammy-security")),
            Verdict::NotPhased
        );
        assert_eq!(ask(by, Some(0), None, None), Verdict::Included);
        assert_eq!(ask(Policy::Always, Some(0), id, None), Verdict::Included);
        assert_eq!(
            ask(Policy::Never, Some(99), id, None),
            Verdict::HeldBack {
                draw: 53,
                percentage: 99
            }
        );
    }
}
