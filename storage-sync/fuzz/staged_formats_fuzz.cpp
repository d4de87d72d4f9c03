// Metadata, log and undo files with arbitrary content: decoders first, then a whole open() over
// them. Input: u8 selector, then the bytes of the file. Checksums are made right for bit 7, so that
// what is behind them is reached as well.
#include <cstdint>
#include <memory>

#include "../tests/fault_files.hpp"
#include "crc32c.hpp"
#include "staged_format.hpp"

namespace {

using namespace evac;
using namespace evac::storage_sync;

constexpr uint64_t kNonceSeed = 5;

StagedSpec spec() {
    return {"f",
            VmId{3},
            {{RegionKind::main_ram, "pc.ram", 64 * kPageBytes}, {RegionKind::disk, "d", 4608}}};
}

void fuzz_meta(Bytes bytes, bool fix) {
    if (fix && bytes.size() > 20) {
        Bytes file;
        ByteWriter writer(file);
        writer.put("EVACSVM1");
        writer.le32(kMetaVersion);
        writer.put_sized(bytes);
        writer.le32(crc32c(0, file));
        bytes = std::move(file);
    }
    auto meta = decode_meta(bytes);
    if (!meta.ok()) return;
    const Bytes again = encode_meta(*meta);
    const bool newest = bytes[8] == std::byte{kMetaVersion};
    if (newest && again != bytes) __builtin_trap();  // one value, one encoding
    if (!newest && !decode_meta(again).ok()) __builtin_trap();
}

// Records as they stand in the file, with each checksum put right as long as the records make
// sense.
void fix_records(Bytes& log, uint64_t nonce) {
    for (uint64_t at = kLogHeaderBytes; at + kRecordHeaderBytes <= log.size();) {
        ByteReader reader(ByteSpan(log).subspan(at));
        LogRecord record;
        (void)reader.le32();
        record.type = static_cast<RecordType>(1 + reader.u8() % 4);
        record.flags = reader.u8();
        record.region = RegionId{reader.le16()};
        record.epoch = Epoch{reader.le32()};
        record.a = reader.le64();
        record.b = reader.le64();
        record.offset = at;
        Bytes payload;
        if (record.type == RecordType::page) payload.resize(kPageBytes, std::byte{0x5a});
        record.payload = payload;
        const Bytes head = encode_record_head(record, nonce);
        // The payload is inserted, so that a short input makes long records.
        log.erase(log.begin() + static_cast<std::ptrdiff_t>(at),
                  log.begin() + static_cast<std::ptrdiff_t>(at + kRecordHeaderBytes));
        payload.insert(payload.begin(), head.begin(), head.end());
        log.insert(log.begin() + static_cast<std::ptrdiff_t>(at), payload.begin(), payload.end());
        at += payload.size();
    }
}

void fuzz_log(const Bytes& records, bool fix, bool undo, bool header_too) {
    testing::FaultFiles files(1);
    StagedOptions options;
    options.nonce_seed = kNonceSeed;
    auto vm = StagedVm::create(files, "/d", "/r", spec(), options);
    if (!vm.ok() || !(*vm)->seal(Epoch{1}, {}, {}).ok() ||
        !(*vm)->put_zero(RegionId{0}, 0, 30, Epoch{2}).ok() ||
        !(*vm)->seal(Epoch{2}, as_byte_span("s"), {}).ok() || !(*vm)->checkpoint().ok()) {
        __builtin_trap();
    }
    const std::string name = undo ? "/d/undo-2" : "/d/log-3";
    const uint64_t nonce = 77;
    Bytes file =
        encode_log_header({undo ? LogKind::undo : LogKind::log, VmId{3}, undo ? 2u : 3u, nonce});
    if (header_too) file.clear();
    file.insert(file.end(), records.begin(), records.end());
    if (fix) fix_records(file, nonce);
    vm->reset();
    files.set_content(name, file);
    auto opened = StagedVm::open(files, "/d", options);
    if (!opened.ok()) return;
    if (undo) {
        (void)(*opened)->restore_point(Epoch{1});
        return;
    }
    Bytes page(kPageBytes);
    (void)(*opened)->read(RegionId{0}, 1, std::span<std::byte, kPageBytes>(page));
    (void)(*opened)->seal(Epoch{UINT32_MAX}, {}, {});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0 || size > 8192) return 0;
    const uint8_t selector = data[0];
    const ByteSpan rest = std::as_bytes(std::span(data + 1, size - 1));
    const Bytes bytes(rest.begin(), rest.end());
    const bool fix = (selector & 0x80) != 0;
    switch (selector & 3) {
        case 0:
            fuzz_meta(bytes, fix);
            break;
        case 1:
            fuzz_log(bytes, fix, false, false);
            break;
        case 2:
            fuzz_log(bytes, fix, true, false);
            break;
        default:
            fuzz_log(bytes, false, (selector & 4) != 0, true);
            break;
    }
    return 0;
}
