//! What connection tracking keeps of a packet's connection, and does to its answers.

use super::{Conversation, Place, Traveller, Tuple, Walk};

impl Walk<'_> {
    /// Notes the translation that this namespace made, and its mark of the connection.
    pub(super) fn remember(&self, at: &Place<'_>, this: &mut Traveller) {
        let connection = &this.packet.connection;
        let translated = connection.source_translated || connection.destination_translated;
        if connection.reply || !translated && connection.mark == 0 {
            return;
        }
        let (source, source_port, destination, destination_port) = connection.original;
        let conversation = Conversation {
            place: at.name(self.name),
            protocol: this.packet.protocol,
            original: Tuple { source, source_port, destination, destination_port },
            translated: Tuple::of(&this.packet),
            mark: connection.mark,
        };
        if !this.conversations.contains(&conversation) {
            this.conversations.push(conversation);
        }
    }

    /// Finds the connection that an answer belongs to.
    pub(super) fn recall(&self, at: &Place<'_>, this: &mut Traveller) {
        if !this.packet.connection.reply {
            return;
        }
        let place = at.name(self.name);
        let answer = Tuple::of(&this.packet).turned();
        let found = self
            .conversations
            .iter()
            .find(|known| known.place == place && known.translated == answer)
            .cloned();
        if let Some(known) = found {
            let connection = &mut this.packet.connection;
            connection.mark = known.mark;
            connection.source_translated = known.original.source != known.translated.source;
            connection.destination_translated = (known.original.destination, known.original.destination_port)
                != (known.translated.destination, known.translated.destination_port);
            let original = known.original;
            connection.original =
                (original.source, original.source_port, original.destination, original.destination_port);
            let answered = known.translated.turned();
            connection.answered =
                (answered.source, answered.source_port, answered.destination, answered.destination_port);
        }
    }

    /// The answer's destination, as the connection's first packet had its source.
    pub(super) fn undo_destination(&self, at: &Place<'_>, this: &mut Traveller) {
        let connection = &this.packet.connection;
        let translated = connection.source_translated || connection.destination_translated;
        if !connection.reply || !translated || this.source_after.is_some() {
            return;
        }
        let (source, source_port, destination, destination_port) = connection.original;
        this.source_after = Some((destination, destination_port));
        if this.packet.destination != source {
            let text =
                format!("connection tracking: destination {} becomes {source}", this.packet.destination);
            (this.packet.destination, this.packet.destination_port) = (source, source_port);
            self.tell(at, this, "conntrack", None, &text);
        }
    }

    pub(super) fn undo_source(&self, this: &mut Traveller) {
        if let Some((source, port)) = this.source_after.take()
            && (this.packet.source, this.packet.source_port) != (source, port)
        {
            let text = format!(
                "connection tracking: source {}:{} becomes {source}:{port}",
                this.packet.source, this.packet.source_port
            );
            (this.packet.source, this.packet.source_port) = (source, port);
            self.tell(&Place::Node(&self.node), this, "conntrack", None, &text);
        }
    }
}
