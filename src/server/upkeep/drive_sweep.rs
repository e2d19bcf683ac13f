//! The driver that forgets what is over: now and then all of it, in steps that leave room for other writes between them.

use std::{sync::Arc, time::Instant};

use crate::{app::App, upkeep::never_contacted};
use dapbox_aggregator::retention;
use dapbox_protocol::model::{TaskId, Time};
use dapbox_store::{SweepCursor, Tx};
use dapbox_support::{Fault, Part, Point, clock};

/// By this time nothing is over on account of its age: only what is closed or removed already is forgotten.
const BEGINNING: Time = Time(0);

/// Sweeps until the server stops.
pub async fn drive(app: Arc<App>) -> Result<(), Fault> {
    let begun = Instant::now();
    loop {
        app.failpoints.turn(Part::Sweep);
        let pause = tokio::time::sleep(*app.config.retention.sweep_interval);
        tokio::pin!(pause);
        // The first pass is not at once, and nothing brings it forward: whoever starts with a clock that is far ahead has
        // time to notice before everything is old.
        while !pause.is_elapsed() {
            tokio::select! {
                () = app.stopped() => return Ok(()),
                () = app.sweeps.notified() => pass(&app, BEGINNING).await?,
                () = &mut pause => {}
            }
        }
        never_contacted::sweep(&app, clock::now(), begun).await?;
        pass(&app, clock::now()).await?;
    }
}

/// Forgets what is over by now.
async fn pass(app: &Arc<App>, now: Time) -> Result<(), Fault> {
    while !is_stopping(app) && app.store.write(Point::SweepRemoved, |tx| tx.sweep_removed()).await? {}
    for task in app.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect::<Vec<_>>()))? {
        sweep_task(app, task, now).await?;
    }
    // Collections of what is closed now can be told so.
    app.collections.notify_one();
    Ok(())
}

async fn sweep_task(app: &Arc<App>, task: TaskId, now: Time) -> Result<(), Fault> {
    let mut next = Some(SweepCursor::default());
    while let Some(place) = next
        && !is_stopping(app)
    {
        let shared = app.clone();
        let step = move |tx: &mut Tx<'_>| retention::sweep(tx, &task, now, &shared.config.retention, place);
        next = app.store.write(Point::Sweep, step).await?;
    }
    Ok(())
}

fn is_stopping(app: &App) -> bool {
    *app.stopping.borrow()
}
