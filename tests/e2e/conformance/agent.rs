//! The operator's agent, asked by many at once.

use super::{Outcome, same};
use crate::gate::agent;
use crate::lab::Lab;

#[test]
fn fifty_ask_the_agent_at_once() {
    an_agent(Lab::start());
}

pub fn an_agent(lab: Lab) {
    let agent = agent(&lab);
    let identity_agent = format!("IdentityAgent={}", lab.path("agent.sock").display());
    // `-T` lets the agent sign and checks the signature.
    let ask = "cat > $0.pub; for i in $(seq 50); do (ssh-add -qT $0.pub; echo $?) & done; wait; ssh-add -l | wc -l";
    let key = std::fs::read(lab.path("operator.pub")).unwrap();
    let outcome = same("an agent", |way| {
        let command = format!("exec sh -c '{ask}' {}", lab.path(&format!("{way}.agent")).display());
        Outcome::of(&crate::lab::exchange(&mut lab.ssh(&["-A", "-o", &identity_agent, way, &command]), &key))
    });
    assert_eq!(outcome.shown(), "0\n".repeat(50) + "1\n", "{outcome:?}");
    drop(agent);
}
