//! Enums that travel by name: states and types.

/// An enum whose variants have names on the wire.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum $name {
            /// Not told by the broker, or not known to this version of the crate.
            #[default]
            Unknown,
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Every one that is known.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Kafka's name of it.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Unknown => "Unknown",
                    $(Self::$variant => stringify!($variant)),+
                }
            }

            fn parse(name: &str) -> Self {
                name.parse().unwrap_or_default()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        /// By Kafka's name, in any case.
        impl std::str::FromStr for $name {
            type Err = $crate::UnknownName;

            fn from_str(name: &str) -> Result<Self, $crate::UnknownName> {
                let known = Self::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(name));
                known.copied().ok_or_else(|| $crate::UnknownName {
                    name: name.to_owned(),
                    known: Self::ALL.iter().map(|known| known.name()).collect(),
                })
            }
        }
    };
}

/// A name that nothing of its kind has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is none of {}", known.join(", "))]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// Those that there are.
    pub known: Vec<&'static str>,
}

pub(crate) use named;
