//! The way of a packet through this node, for `trace`.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use skiff_network::walk::{Asked, Conversation, Packets, Start};

use super::{network, sandboxes};
use crate::agent::{Answer, Query, Refusal, internal, json};
use crate::node_context::Context;

/// The parameter `walk`, as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    start: Start,
    packets: Packets,
    #[serde(default)]
    conversations: Vec<Conversation>,
}

pub(super) async fn answer(context: &Arc<Context>, query: &Query) -> Answer {
    let refuse = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let question: Question = serde_json::from_str(query.get("walk").unwrap_or_default())
        .map_err(|error| refuse(format!("walk: {error}")))?;
    let network = network(context)?;
    let asked = Asked {
        node: format!("node {}", context.config.node_name),
        start: question.start,
        packets: question.packets,
        conversations: question.conversations,
        sandboxes: sandboxes(context).await?,
    };
    match network.walk(asked).await {
        Ok(ways) => json(&ways),
        Err(error @ (skiff_network::Error::Invalid(_) | skiff_network::Error::NotAttached(_))) => {
            Err(refuse(error.to_string()))
        }
        Err(error) => Err(internal(error)),
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use skiff_explain::trace::walk as asked;
    use skiff_network::walk as told;

    use super::Question;

    /// What one side writes, read and written again by the other.
    fn across<T: DeserializeOwned + Serialize>(written: &impl Serialize) -> (Value, Value) {
        let written = serde_json::to_value(written).unwrap();
        let read: T =
            serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{error}: {written}"));
        (written, serde_json::to_value(read).unwrap())
    }

    fn tuple() -> told::Tuple {
        told::Tuple {
            source: [10, 0, 0, 1].into(),
            source_port: 40_000,
            destination: [10, 0, 0, 2].into(),
            destination_port: 80,
        }
    }

    fn conversation() -> told::Conversation {
        let (original, translated) = (tuple(), tuple().turned());
        told::Conversation { place: "node a".into(), protocol: 6, original, translated, mark: 9 }
    }

    #[test]
    fn the_server_reads_every_way_as_this_node_writes_it() {
        let text = || "x".to_owned();
        let (place, why, by) = (text, text, text);
        let ends = [
            told::End::Delivered { place: place(), process: text() },
            told::End::Refused { place: place(), why: why() },
            told::End::Rejected { place: place(), by: by() },
            told::End::Dropped { place: place(), by: by() },
            told::End::Unroutable { place: place(), why: why() },
            told::End::Down { place: place(), device: text(), why: why() },
            told::End::Leaves { link: text(), next_hop: [10, 0, 0, 3].into() },
        ];
        for end in ends {
            // One that is added here has to be added there, and above.
            match &end {
                told::End::Delivered { .. }
                | told::End::Refused { .. }
                | told::End::Rejected { .. }
                | told::End::Dropped { .. }
                | told::End::Unroutable { .. }
                | told::End::Down { .. }
                | told::End::Leaves { .. } => {}
            }
            let some = || Some(text());
            let hop = told::Hop {
                place: text(),
                kind: text(),
                device: some(),
                text: text(),
                table: some(),
                chain: some(),
                handle: Some(7),
                comment: some(),
                rule: some(),
                source: text(),
                destination: text(),
                doubtful: true,
            };
            let hops = vec![hop];
            let way =
                told::Way { chance: 0.5, hops, end, tuple: tuple(), conversations: vec![conversation()] };
            let (written, read) = across::<asked::NodeWay>(&way);
            assert_eq!(read, written);
        }
        let bare = told::Hop { place: text(), kind: text(), text: text(), ..told::Hop::default() };
        let (_, read) = across::<asked::Hop>(&bare);
        assert_eq!(serde_json::from_value::<told::Hop>(read).unwrap(), bare);
    }

    #[test]
    fn this_node_reads_every_question_as_the_server_writes_it() {
        let starts = [
            asked::Start::Node,
            asked::Start::Sandbox { ip: [10, 0, 0, 4].into() },
            asked::Start::Link { next_hop: [10, 0, 0, 5].into() },
            asked::Start::Outside,
        ];
        for start in starts {
            match &start {
                asked::Start::Node
                | asked::Start::Sandbox { .. }
                | asked::Start::Link { .. }
                | asked::Start::Outside => {}
            }
            let there =
                |value: &told::Tuple| serde_json::from_value(serde_json::to_value(value).unwrap()).unwrap();
            let packets = asked::Packets { protocol: 17, tuple: there(&tuple()), reply: true };
            let conversations =
                serde_json::from_value(serde_json::to_value([conversation()]).unwrap()).unwrap();
            let question = asked::Question { start, packets, conversations };
            let written = serde_json::to_value(&question).unwrap();
            let read: Question = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read.start).unwrap(), written["start"]);
            assert_eq!(serde_json::to_value(read.packets).unwrap(), written["packets"]);
            assert_eq!(serde_json::to_value(&read.conversations).unwrap(), written["conversations"]);
        }
    }
}
