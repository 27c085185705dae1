//! What every operation shares: it is sent when awaited, and has a time-out.

/// Makes a struct with `run(self)` and a `timeout` field awaitable.
macro_rules! operation {
    ($name:ident => $output:ty) => {
        impl $name {
            /// How long to try as a whole. Default: the [`Admin`](crate::Admin)'s time-out.
            pub fn timeout(mut self, timeout: std::time::Duration) -> Self {
                self.timeout = timeout;
                self
            }
        }

        impl std::future::IntoFuture for $name {
            type Output = Result<$output, $crate::AdminError>;
            type IntoFuture = futures::future::BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.run())
            }
        }
    };
}

pub(crate) use operation;
