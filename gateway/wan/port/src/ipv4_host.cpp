#include "evac/wan_port/ipv4_host.hpp"

#include "evac/core/assert.hpp"

namespace evac::wan_port {
namespace {

bool is_usable_mac(const MacAddress& mac) {
    const bool group = (std::to_integer<unsigned>(mac[0]) & 1U) != 0;  // broadcast and multicast
    return !group && mac != MacAddress{};
}

}  // namespace

Ipv4Host::Ipv4Host(const Ipv4HostOptions& options)
    : options_(options),
      mask_(options.prefix_length == 0 ? 0 : ~uint32_t{0} << (32 - options.prefix_length)) {
    EVAC_ASSERT(options.prefix_length <= 32);
    flow_.src_mac = options.mac;
    flow_.src = options.local;
    flow_.vlan = options.vlan;
}

bool Ipv4Host::on_link(uint32_t ip) const {
    return ((ip ^ options_.local.ip) & mask_) == 0;
}

Ipv4Host::Neighbour* Ipv4Host::find(uint32_t ip) {
    for (Neighbour& neighbour : neighbours_) {
        if (neighbour.ip == ip && ip != 0) return &neighbour;
    }
    return nullptr;
}

Ipv4Host::Neighbour& Ipv4Host::find_or_replace_oldest(uint32_t ip) {
    if (Neighbour* known = find(ip)) return *known;
    Neighbour* oldest = &neighbours_[0];
    for (Neighbour& neighbour : neighbours_) {
        if (neighbour.ip == 0) {
            oldest = &neighbour;
            break;
        }
        if (neighbour.wanted_ns < oldest->wanted_ns) oldest = &neighbour;
    }
    *oldest = Neighbour{};
    oldest->ip = ip;
    return *oldest;
}

void Ipv4Host::learn(uint32_t ip, const MacAddress& mac, bool may_add, uint64_t now_ns) {
    if (!is_usable_mac(mac) || ip == options_.local.ip || !on_link(ip)) return;
    Neighbour* neighbour = find(ip);
    if (neighbour == nullptr && may_add) {
        // A stranger's request may only take a free place, so that no flood of them evicts the
        // peer.
        for (Neighbour& candidate : neighbours_) {
            if (candidate.ip == 0) {
                neighbour = &candidate;
                neighbour->ip = ip;
                break;
            }
        }
    }
    if (neighbour == nullptr) return;
    neighbour->mac = mac;
    neighbour->known = true;
    neighbour->confirmed_ns = now_ns;
}

const UdpFlow* Ipv4Host::flow_to(const UdpAddress& to, uint64_t now_ns) {
    const uint32_t hop = on_link(to.ip) ? to.ip : options_.gateway_ip;
    if (hop == 0 || hop == options_.local.ip) return nullptr;
    Neighbour& neighbour = find_or_replace_oldest(hop);
    neighbour.wanted_ns = now_ns;
    if (!neighbour.known) return nullptr;
    flow_.dst_mac = neighbour.mac;
    flow_.dst = to;
    return &flow_;
}

size_t Ipv4Host::write_due_request(uint64_t now_ns, std::span<std::byte> out) {
    for (Neighbour& neighbour : neighbours_) {
        if (neighbour.ip == 0 || neighbour.wanted_ns == 0) continue;  // never sent to: only learnt
        if (now_ns - neighbour.wanted_ns > kArpWantedNs) continue;
        const bool stale = !neighbour.known || now_ns - neighbour.confirmed_ns >= kArpRefreshNs;
        if (!stale) continue;
        if (neighbour.ever_asked && now_ns - neighbour.asked_ns < kArpRetryNs) continue;
        neighbour.ever_asked = true;
        neighbour.asked_ns = now_ns;
        return encode_arp_request(options_.mac, options_.local.ip, neighbour.ip, out,
                                  options_.vlan);
    }
    return 0;
}

size_t Ipv4Host::write_announcement(std::span<std::byte> out) const {
    return encode_arp_request(options_.mac, options_.local.ip, options_.local.ip, out,
                              options_.vlan);
}

bool Ipv4Host::on_our_vlan(const DecodedFrame& decoded, const VlanTag* stripped) const {
    const uint16_t id = stripped != nullptr ? stripped->id : decoded.vlan.id;
    // Both: a tag inside a tag.
    if (stripped != nullptr && decoded.tagged) return false;
    return id == options_.vlan.id;
}

Ipv4Host::Input Ipv4Host::handle_arp(const DecodedFrame& decoded, uint64_t now_ns,
                                     std::span<std::byte> reply) {
    Input input;
    const bool asks_us = decoded.dst_ip == options_.local.ip;
    const bool request = decoded.kind == FrameKind::arp_request;
    learn(decoded.src_ip, decoded.src_mac, request && asks_us, now_ns);
    if (request && asks_us && is_usable_mac(decoded.src_mac) && reply.size() >= kArpFrameBytesMax) {
        input.reply_bytes = encode_arp_reply(options_.mac, options_.local.ip, decoded.src_mac,
                                             decoded.src_ip, reply, options_.vlan);
    }
    return input;
}

bool Ipv4Host::take_hint(const DecodedFrame& decoded, uint64_t now_ns) {
    const DecodedFrame::Quoted& quoted = decoded.quoted;
    if (!(quoted.src == options_.local) || !(quoted.dst == flow_.dst)) return false;
    // A hop that says what it takes, and it is less than what it was given.
    constexpr size_t kHeaders = kIpv4HeaderBytes + kUdpHeaderBytes;
    if (quoted.next_hop_mtu < kPathMtuHintMin + kHeaders ||
        quoted.next_hop_mtu >= quoted.ip_bytes) {
        return false;
    }
    if (hint_.count != 0 && now_ns - hint_ns_ < kMtuHintGapNs) return false;
    hint_ns_ = now_ns;
    hint_ = {quoted.dst, quoted.next_hop_mtu - kHeaders, hint_.count + 1};
    return true;
}

Ipv4Host::Input Ipv4Host::handle(ByteSpan frame, uint64_t now_ns, std::span<std::byte> reply,
                                 PortCounters& counters, const VlanTag* stripped) {
    Input input;
    const DecodedFrame decoded = decode_frame(frame);
    if (decoded.kind == FrameKind::malformed) {
        ++counters.rx_malformed;
        return input;
    }
    if (!on_our_vlan(decoded, stripped)) {
        ++counters.rx_not_ours;
        return input;
    }
    const bool to_us = decoded.dst_ip == options_.local.ip && decoded.dst_mac == options_.mac;
    switch (decoded.kind) {
        case FrameKind::udp:
            if (!to_us || decoded.dst_port != options_.local.port) break;
            input.is_datagram = true;
            input.from = {decoded.src_ip, decoded.src_port};
            input.payload = decoded.payload;
            ++counters.rx_packets;
            counters.rx_bytes += decoded.payload.size();
            return input;
        case FrameKind::arp_request:
        case FrameKind::arp_reply:
            return handle_arp(decoded, now_ns, reply);
        case FrameKind::icmp_echo_request:
            if (!to_us || !is_usable_mac(decoded.src_mac)) break;
            if (reply.size() >=
                kEthernetHeaderBytes + kVlanTagBytes + kIpv4HeaderBytes + decoded.payload.size()) {
                input.reply_bytes = encode_icmp_echo_reply(decoded, reply, options_.vlan);
            }
            return input;
        case FrameKind::icmp_too_big:
            if (!to_us || !take_hint(decoded, now_ns)) break;
            ++counters.rx_mtu_hints;
            return input;
        case FrameKind::bad_checksum:
            ++counters.rx_bad_checksum;
            return input;
        case FrameKind::malformed:
        case FrameKind::other:
            break;
    }
    ++counters.rx_not_ours;
    return input;
}

}  // namespace evac::wan_port
