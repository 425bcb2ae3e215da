//! What the documents promise is what the programs do.

use muster_domain::{error_code, states};

fn document(name: &str) -> String {
    let path = format!("{}/../../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_glossary_has_every_error_code() {
    let glossary = document("glossary.md");
    for (code, meaning) in error_code::ALL {
        let row = format!("| {code} | {meaning} |");
        assert!(glossary.contains(&row), "no row {row}");
    }
}

#[test]
fn the_glossary_has_every_state_in_the_row_of_its_number() {
    let glossary = document("glossary.md");
    let has = |id: u8, text: &str| {
        let row = format!("| {id} |");
        let mut rows = glossary.lines().filter(|line| line.starts_with(&row));
        let cell = format!("| {text} |");
        assert!(
            rows.any(|line| line.contains(&cell)),
            "no {text} under {id}"
        );
    };
    states::Detection::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
    states::UpdateEnforcement::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
    states::DeploymentEnforcement::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
    states::DeploymentEvaluation::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
    states::DeploymentCompliance::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
    states::Scan::ALL
        .iter()
        .for_each(|it| has(it.id(), it.text()));
}
