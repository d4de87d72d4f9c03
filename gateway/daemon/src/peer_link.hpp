#pragma once
// Class control of the WAN, as the control thread uses it: ordered messages to the peer, with a
// bounded queue in front of the transport's. A queue that overflows (kQueuedMax) or a session that
// ends makes everything waiting void: what must survive that is said again by its owner when the
// next session is up. Owner: the control thread.
#include <deque>

#include "evac/core/log.hpp"
#include "evac/protocol/messages.hpp"
#include "evac/wan/transport.hpp"

namespace evac::daemon {

class PeerLink {
  public:
    static constexpr size_t kQueuedMax = 65'536;

    PeerLink(wan::Transport& transport, Logger& log) : transport_(transport), log_(log) {}

    wan::SessionId session() const { return session_; }
    bool up() const { return session_ != wan::SessionId::none; }
    void begin_session(wan::SessionId session) {
        session_ = session;
        waiting_.clear();
    }

    void send(const protocol::Message& message) {
        if (!up()) return;
        if (waiting_.size() >= kQueuedMax) {
            log_.error(
                "control messages to the peer overflow; they are dropped until the next session");
            return;
        }
        waiting_.push_back(protocol::encode(message));
        pump();
    }

    void pump() {
        while (!waiting_.empty()) {
            const auto result =
                transport_.try_send(wan::Class::control, session_, std::move(waiting_.front()));
            if (result == wan::SendResult::full) return;
            if (result == wan::SendResult::session_changed ||
                result == wan::SendResult::not_connected) {
                waiting_.clear();
                return;
            }
            if (result == wan::SendResult::invalid)
                log_.error("a control message was refused by the transport");
            waiting_.pop_front();
        }
    }
    bool blocked() const { return !waiting_.empty(); }

  private:
    wan::Transport& transport_;
    Logger& log_;
    wan::SessionId session_{};
    std::deque<Bytes> waiting_;
};

}  // namespace evac::daemon
