//! Events that were lost before they became flows: told to whoever gets flows, as Hubble tells it.

use bpf_redirect::Datapath;
use flow::Losses;
use observer::SharedRing;

use crate::exporters::SharedExporters;
use crate::flows::NewsSink;

/// What was lost so far, and told.
pub(super) struct ToldLosses(Losses);

impl ToldLosses {
    /// Nothing yet; what the kernel's counter kept of an earlier run is not told.
    pub(super) fn new(datapath: &Datapath) -> Self {
        Self(Losses {
            kernel: datapath.events_lost().unwrap_or_default(),
            queue: 0,
        })
    }

    /// Tells what was lost since.
    pub(super) fn tell(
        &mut self,
        (datapath, news): (&Datapath, &NewsSink),
        (ring, exporters): (&SharedRing, &SharedExporters),
    ) {
        let now = Losses {
            // Where it can't be read, figures say so.
            kernel: datapath.events_lost().unwrap_or(self.0.kernel),
            queue: news.lost(),
        };
        let more = now.since(self.0);
        if more == Losses::default() {
            return;
        }
        self.0 = now;
        ring.lose(more);
        for exporter in exporters.load().iter() {
            exporter.sink.tell_lost(more);
        }
    }
}
