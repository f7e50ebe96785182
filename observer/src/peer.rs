//! Hubble's Peer service: this node, for a relay that looks for nodes.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status};

use crate::proto::peer::peer_server::Peer;
use crate::proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, Tls};
use crate::service::Service;

#[tonic::async_trait]
impl Peer for Service {
    type NotifyStream = Pin<Box<dyn Stream<Item = Result<ChangeNotification, Status>> + Send>>;

    /// One node, which never changes: it is added, and then the stream stays open.
    async fn notify(
        &self,
        _request: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let seat = self.seat()?;
        let added = ChangeNotification {
            name: self.node.name.to_string(),
            address: self.address(),
            r#type: ChangeNotificationType::PeerAdded as i32,
            tls: self
                .server_name
                .clone()
                .map(|server_name| Tls { server_name }),
        };
        let open = stream::pending().map(move |never| {
            let _ = &seat;
            never
        });
        let all = stream::iter([Ok(added)]).chain(open);
        Ok(Response::new(Box::pin(all)))
    }
}
