//! A member of any classic group: what its members divide are bytes of the application's own.

mod builder;
mod duty;
mod inbox;
mod task;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use builder::GroupMemberBuilder;

use self::builder::Options;
use self::inbox::Inbox;
use super::GroupError;
use super::member::GroupExit;
use super::requests::Host;
use super::shell::LEAVE_TIMEOUT;
use crate::client::Client;
use crate::net::{Pool, RequestError};
use crate::news::News;

/// What the leader of a group is told, to assign by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupToAssign {
    /// The generation that begins.
    pub generation: i32,
    /// Which of the offered protocols the coordinator chose.
    pub protocol: String,
    /// The member id of the leader, which is this member.
    pub leader: String,
    /// Everybody, the leader too.
    pub members: Vec<MemberToAssign>,
}

/// One of those to whom something is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberToAssign {
    /// Its member id.
    pub id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<String>,
    /// What it offered together with the protocol that was chosen.
    pub metadata: Bytes,
}

/// What a member does from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupAssignment {
    /// The group's generation.
    pub generation: i32,
    /// The id that the coordinator gave this member.
    pub member_id: String,
    /// The member id of the leader.
    pub leader: String,
    /// The protocol that was chosen.
    pub protocol: String,
    /// What the leader's assignor said for this member; empty if nothing.
    pub assignment: Bytes,
}

impl GroupAssignment {
    /// Whether this member leads the group in this generation.
    pub fn is_leader(&self) -> bool {
        self.member_id == self.leader
    }
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// The member has an assignment, instead of the one before.
    Assigned(GroupAssignment),
    /// The group rebalances. The member joins it again when the application asks for the next event, or when the
    /// rebalance time-out is over: before that give up what may go to others, and say what to join with
    /// ([`GroupMember::set_protocols`]).
    Revoked,
    /// The coordinator has thrown the member out: what it had may be somebody else's already. It joins again.
    Lost,
}

/// Why a member is none any more. All of these are final.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GroupMemberError {
    /// The group is not for this member.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The coordinator cannot be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// A member of a classic group whose members divide what only the application understands; made by
/// [`Client::group_member`].
///
/// ```no_run
/// # use std::collections::BTreeMap;
/// # fn start(_: &[u8]) {}
/// # fn stop() {}
/// # async fn f(client: &kafka_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use kafka_client::group::{GroupEvent, GroupToAssign};
///
/// // Everybody gets its number.
/// let count = |group: &GroupToAssign| {
///     let numbered = group.members.iter().zip(0u32..);
///     let numbers = numbered.map(|(member, number)| (member.id.clone(), number.to_be_bytes().to_vec().into()));
///     Ok::<_, std::convert::Infallible>(numbers.collect())
/// };
/// let member = client.group_member("workers", "my-work").protocol("numbers", "").assignor(count).build()?;
/// while let Some(event) = member.next_event().await? {
///     match event {
///         GroupEvent::Assigned(work) => start(&work.assignment),
///         GroupEvent::Revoked | GroupEvent::Lost => stop(),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
///
/// Heartbeats are sent in the background whatever the application does. All methods take `&self`; one task should take
/// the events. A member that is dropped leaves its group in the background.
pub struct GroupMember {
    shared: Arc<Shared>,
    closing: watch::Sender<Option<GroupExit>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMember").field("group", &self.shared.options.group).finish_non_exhaustive()
    }
}

impl GroupMember {
    fn start(client: Client, options: Options) -> Self {
        let shared = Arc::new(Shared {
            pool: client.own_connections(),
            client,
            options,
            inbox: Mutex::default(),
            events: News::default(),
            wish: Mutex::default(),
            wishes: News::default(),
        });
        let (closing, is_closing) = watch::channel(None);
        let running = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            task::run(Arc::clone(&running), is_closing).await;
            running.tell(Inbox::close);
        });
        Self { shared, closing, task: Mutex::new(Some(task)) }
    }

    /// What happens next to the member, as soon as it does; `None` once it is closed. Says that the application is done
    /// with the event before.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The membership is over for good; each later call fails alike.
    pub async fn next_event(&self) -> Result<Option<GroupEvent>, GroupMemberError> {
        let shared = &self.shared;
        let mut events = shared.events.follow();
        shared.inbox.lock().come_back();
        shared.wishes.tell(());
        loop {
            events.catch_up();
            let event = shared.inbox.lock().next();
            if let Some(event) = event {
                return event;
            }
            let _ = events.changed().await;
        }
    }

    /// Joins the group again, with a reason for the coordinator's log (KIP-800). That makes the group rebalance if this
    /// member leads; another one that offers the same as before gets back what it had, in the same generation.
    pub fn rejoin(&self, reason: impl Into<Cow<'static, str>>) {
        self.wish(None, reason.into());
    }

    /// Names and metadata to join with from now on, in order of preference, instead of those given before; and asks for a
    /// rebalance, unless one has begun. An empty list changes nothing.
    pub fn set_protocols<N, M>(&self, protocols: impl IntoIterator<Item = (N, M)>)
    where
        N: Into<String>,
        M: Into<Bytes>,
    {
        let protocols = protocols.into_iter().map(|(name, metadata)| (name.into(), metadata.into()));
        let protocols: Vec<(String, Bytes)> = protocols.collect();
        if !protocols.is_empty() {
            self.wish(Some(protocols), "the member offers something else".into());
        }
    }

    /// Later wishes replace earlier ones that were not heard yet.
    fn wish(&self, protocols: Option<Vec<(String, Bytes)>>, reason: Cow<'static, str>) {
        let mut wish = self.shared.wish.lock();
        let protocols = protocols.or_else(|| wish.take().and_then(|wish| wish.protocols));
        *wish = Some(Wish { protocols, reason });
        drop(wish);
        self.shared.wishes.tell(());
    }

    /// Leaves the group; a static member stays until its session ends (KIP-345). Waits up to 30 s.
    ///
    /// Dropping the future leaves the rest to the background.
    pub async fn close(&self) {
        self.close_with(GroupExit::Default, LEAVE_TIMEOUT).await;
    }

    /// As [`close`](Self::close), with a word on what becomes of the membership (KIP-1092), waiting at most so long. The
    /// application has given up what it was assigned.
    pub async fn close_with(&self, exit: GroupExit, within: Duration) {
        self.closing.send_replace(Some(exit));
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(within, task).await;
        }
        self.shared.tell(Inbox::close);
    }
}

/// What the application wants of its membership.
#[derive(Debug)]
struct Wish {
    protocols: Option<Vec<(String, Bytes)>>,
    reason: Cow<'static, str>,
}

/// What the application's side and the task have in common.
struct Shared {
    client: Client,
    /// The member's own connections.
    pool: Pool,
    options: Options,
    inbox: Mutex<Inbox>,
    events: News<()>,
    wish: Mutex<Option<Wish>>,
    /// Told when there is a wish, or the application came back for an event.
    wishes: News<()>,
}

impl Shared {
    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.inbox.lock());
        self.events.tell(());
    }
}

impl Host for Shared {
    fn client(&self) -> &Client {
        &self.client
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn group(&self) -> &str {
        &self.options.group
    }

    fn protocol_type(&self) -> &str {
        &self.options.protocol_type
    }

    fn give_up(&self, error: RequestError) {
        self.tell(|inbox| inbox.fail(error.into()));
        self.wishes.tell(());
    }
}
