//! The member's task: carries out what [`Membership`] decides.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::builder::Options;
use super::duty::Opaque;
use super::inbox::Inbox;
use super::{GroupAssignment, GroupToAssign, Shared};
use crate::consumer::sleep_until;
use crate::group::classic::{Action, ActionOf, Membership};
use crate::group::member::GroupExit;
use crate::group::requests::{self, Heard};
use crate::group::shell::{LEAVE_TIMEOUT, UnderWay, wait_for_close};

enum Event {
    Heard(Heard),
    Assigned(Result<Vec<(String, Bytes)>, String>),
}

struct Task {
    shared: Arc<Shared>,
    member: Membership<Opaque>,
    under_way: UnderWay<Event>,
    /// Until when the application may take to give its assignment up.
    release_by: Option<Instant>,
    leave_by: Option<Instant>,
}

/// Runs until the member has left; `closing` starts that.
pub(super) async fn run(shared: Arc<Shared>, mut closing: watch::Receiver<Option<GroupExit>>) {
    let mut wishes = shared.wishes.follow();
    let duty = Opaque::new(shared.options.protocols.clone());
    let member = Membership::new(shared.options.membership(), duty, Instant::now());
    let mut task = Task { shared, member, under_way: UnderWay::default(), release_by: None, leave_by: None };
    loop {
        wishes.catch_up();
        let now = Instant::now();
        task.obey();
        task.carry_out(now);
        let is_late = task.leave_by.is_some_and(|at| at <= now);
        if is_late || (task.member.has_left() && task.under_way.is_idle()) {
            return;
        }
        let wakes = [task.member.wake_at(), task.release_by, task.leave_by];
        let wake_at = wakes.into_iter().flatten().min();
        tokio::select! {
            biased;
            event = task.under_way.next() => task.handle(event),
            _ = wishes.changed() => {}
            exit = wait_for_close(&mut closing), if task.leave_by.is_none() => task.leave(exit),
            () = sleep_until(wake_at) => {}
        }
    }
}

impl Task {
    fn leave(&mut self, exit: GroupExit) {
        self.leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
        self.member.leave(exit);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Heard(heard) => heard.tell(&mut self.member, Instant::now()),
            Event::Assigned(answer) => self.member.assign(answer),
        }
    }

    /// What the application wishes, and whether it can go on at all.
    fn obey(&mut self) {
        let wish = self.shared.wish.lock().take();
        if let Some(wish) = wish {
            if let Some(protocols) = wish.protocols {
                self.member.duty_mut().set_protocols(protocols);
            }
            self.member.rejoin(wish.reason);
        }
        if self.leave_by.is_none() && self.shared.inbox.lock().has_failed() {
            self.leave(GroupExit::Default);
        }
    }

    fn carry_out(&mut self, now: Instant) {
        loop {
            if self.release_by.is_some_and(|at| at <= now || self.shared.inbox.lock().has_given_up()) {
                self.release_by = None;
                self.member.released(now);
            }
            let Some(action) = self.member.poll(now) else { return };
            tracing::debug!(group = self.shared.options.group, ?action, "group");
            self.perform(action, now);
        }
    }

    fn perform(&mut self, action: ActionOf<Opaque>, now: Instant) {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Ask(ask) => {
                let terms = shared.options.terms();
                self.under_way.ask(shared, terms, ask, Event::Heard);
            }
            Action::Lead(group) => {
                self.under_way
                    .exchange(Box::pin(async move { Event::Assigned(assign(&shared.options, group).await) }));
            }
            Action::ForgetCoordinator => requests::forget_coordinator(&*shared),
            Action::Release { what, lost } => self.release(what, lost, now),
            Action::Take(assignment) => {
                let term = self.member.term().clone();
                tracing::info!(group = shared.options.group, generation = term.generation, "assigned");
                shared.tell(|inbox| {
                    inbox.assigned(GroupAssignment {
                        generation: term.generation,
                        member_id: term.member_id,
                        leader: term.leader,
                        protocol: term.protocol,
                        assignment,
                    });
                });
            }
            Action::Fail(error) => shared.tell(|inbox| inbox.fail(error.into())),
        }
    }

    /// Who closes the member is done with what it had.
    fn release(&mut self, is_assigned: bool, lost: bool, now: Instant) {
        self.release_by = None;
        if is_assigned && lost {
            self.shared.tell(Inbox::lose);
        } else if is_assigned && self.leave_by.is_none() {
            self.shared.tell(Inbox::revoke);
            // The coordinator waits so long and throws the member out then, which it hears within a session. To join before
            // that would be to say that somebody else may have what the application is still at work with.
            let options = &self.shared.options;
            self.release_by = Some(now + options.rebalance_timeout + options.session_timeout);
            return;
        }
        self.member.released(now);
    }
}

/// Asks the application, on a thread where it delays nobody.
async fn assign(options: &Options, group: GroupToAssign) -> Result<Vec<(String, Bytes)>, String> {
    let Some(assign) = options.assign.clone() else { return Err("there is no assignor".to_owned()) };
    let work = tokio::task::spawn_blocking(move || {
        let assignments = assign(&group).map_err(|error| error.to_string())?;
        let is_member = |id: &String| group.members.iter().any(|member| member.id == *id);
        match assignments.keys().find(|id| !is_member(id)) {
            Some(stranger) => Err(format!("it assigned something to {stranger}, who is no member")),
            None => Ok(assignments.into_iter().collect()),
        }
    });
    work.await.unwrap_or_else(|error| Err(error.to_string()))
}
