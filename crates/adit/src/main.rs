//! Placeholder that serves the demo's sample service, until the command line is there.

use std::sync::Arc;

mod demo;

fn main() {
    let built = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    built.expect("a runtime").block_on(async {
        let scope = runtime::Scope::root();
        let listener =
            runtime::BoundListener::bind(([127, 0, 0, 1], 3999).into()).expect("a free port");
        let hops: demo::HopSource = Arc::new(|_: &str| {
            [
                ("visitor → server", 0.21),
                ("server → agent", 0.18),
                ("agent → local", 0.25),
                ("local service", 0.4),
                ("back", 0.3),
            ]
            .map(|(name, ms)| demo::Hop {
                name: name.into(),
                ms,
            })
            .into()
        });
        demo::serve(listener, scope, hops)
            .await
            .expect("the listener works");
    });
}
