//! What the application is told of its membership, and how far it is with that.

use std::collections::VecDeque;

use super::{GroupAssignment, GroupEvent, GroupMemberError};

/// Never more than two events wait, however slow the application is: an assignment that is over before it was seen is
/// not told at all.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<GroupEvent>,
    /// The application was told that its assignment ends, and has not come back since.
    is_giving_up: bool,
    failure: Option<GroupMemberError>,
    is_closed: bool,
}

impl Inbox {
    /// The application asks for the next event, and so is done with the last one.
    pub(super) fn come_back(&mut self) {
        self.is_giving_up = false;
    }

    /// `None`: nothing to say yet. Failures come after the events that led to them.
    pub(super) fn next(&mut self) -> Option<Result<Option<GroupEvent>, GroupMemberError>> {
        if let Some(event) = self.waiting.pop_front() {
            self.is_giving_up = event == GroupEvent::Revoked;
            return Some(Ok(Some(event)));
        }
        match &self.failure {
            Some(failure) => Some(Err(failure.clone())),
            None => self.is_closed.then_some(Ok(None)),
        }
    }

    pub(super) fn assigned(&mut self, assignment: GroupAssignment) {
        self.waiting.push_back(GroupEvent::Assigned(assignment));
    }

    /// The assignment ends as soon as the application [has given it up](Self::has_given_up).
    pub(super) fn revoke(&mut self) {
        if !self.take_back() {
            self.waiting.push_back(GroupEvent::Revoked);
        }
    }

    /// The assignment has ended.
    pub(super) fn lose(&mut self) {
        if !self.take_back() {
            self.waiting.retain(|event| *event != GroupEvent::Revoked);
            self.waiting.push_back(GroupEvent::Lost);
        }
    }

    /// Whether the last assignment was not seen yet; now it never is.
    fn take_back(&mut self) -> bool {
        let is_unseen = matches!(self.waiting.back(), Some(GroupEvent::Assigned(_)));
        if is_unseen {
            self.waiting.pop_back();
        }
        is_unseen
    }

    pub(super) fn has_given_up(&self) -> bool {
        !self.is_giving_up && !self.waiting.contains(&GroupEvent::Revoked)
    }

    /// The first failure counts.
    pub(super) fn fail(&mut self, failure: GroupMemberError) {
        self.failure.get_or_insert(failure);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Nothing more is told, except a failure.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.waiting.clear();
        self.is_giving_up = false;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn assignment(generation: i32) -> GroupAssignment {
        GroupAssignment {
            generation,
            member_id: "m".into(),
            leader: "m".into(),
            protocol: "default".into(),
            assignment: Bytes::new(),
        }
    }

    fn told(inbox: &mut Inbox) -> Option<GroupEvent> {
        inbox.come_back();
        inbox.next().and_then(|event| event.unwrap())
    }

    #[test]
    fn an_assignment_is_given_up_when_the_application_comes_back_after_it_was_told() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1));
        assert_eq!(told(&mut inbox), Some(GroupEvent::Assigned(assignment(1))));
        inbox.revoke();
        assert!(!inbox.has_given_up());
        assert_eq!(told(&mut inbox), Some(GroupEvent::Revoked));
        assert!(!inbox.has_given_up(), "it is giving up now");
        assert_eq!(told(&mut inbox), None);
        assert!(inbox.has_given_up());
    }

    #[test]
    fn an_assignment_that_was_not_seen_needs_not_be_given_up() {
        let mut inbox = Inbox::default();
        for generation in 1..100 {
            inbox.assigned(assignment(generation));
            inbox.revoke();
            assert!(inbox.has_given_up());
        }
        inbox.assigned(assignment(100));
        inbox.lose();
        assert_eq!(told(&mut inbox), None);
    }

    #[test]
    fn who_is_told_too_late_that_an_assignment_ends_hears_that_it_is_lost() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1));
        assert!(told(&mut inbox).is_some());
        inbox.revoke();
        inbox.lose();
        inbox.assigned(assignment(2));
        assert_eq!(told(&mut inbox), Some(GroupEvent::Lost));
        assert_eq!(told(&mut inbox), Some(GroupEvent::Assigned(assignment(2))));
        assert_eq!(told(&mut inbox), None);
    }

    #[test]
    fn a_failure_is_told_for_ever_after_the_loss_that_it_brought() {
        let mut inbox = Inbox::default();
        inbox.assigned(assignment(1));
        assert!(told(&mut inbox).is_some());
        inbox.lose();
        let failure = crate::group::GroupError::Fenced { group: "g".into(), instance: "i".into() };
        inbox.fail(failure.into());
        assert_eq!(told(&mut inbox), Some(GroupEvent::Lost));
        inbox.close();
        assert!(matches!(inbox.next(), Some(Err(_))));
        assert!(matches!(inbox.next(), Some(Err(_))));
    }
}
