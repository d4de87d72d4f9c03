// The executor and single handovers, step by step. Faults in every combination: sim_crash_test.cpp.
#include "evac/evacuation/coordinator.hpp"

#include <gtest/gtest.h>

#include "evac/evacuation/away_desk.hpp"

namespace evac::evacuation {
namespace {

using HE = HomeEventKind;
using AE = AwayEventKind;
using MK = MessageKind;

std::string names(const Acts& acts) {
    std::string out;
    for (const Act& act : acts) {
        if (!out.empty()) out += " ";
        out +=
            act.kind == ActKind::send_message ? to_string(act.message.kind) : to_string(act.kind);
    }
    return out;
}

class Pair : public ::testing::Test {
  protected:
    Pair() { restart(); }

    void restart() {
        home_journal_.emplace(std::move(Journal::open(home_file_).value()));
        away_journal_.emplace(std::move(Journal::open(away_file_).value()));
        home_.emplace(*home_journal_, options_, now_);
        away_.emplace(*away_journal_, now_);
        for (uint32_t i = 0; i < 4; ++i) {
            EXPECT_TRUE(home_->add_vm(VmId{i}).ok());
            EXPECT_TRUE(away_->add_vm(VmId{i}).ok());
        }
        home_acts_ = home_->restart(now_).value();
        away_acts_ = away_->restart(now_).value();
    }
    void pass(uint64_t ms) {
        now_.ns += ms * 1'000'000;
        now_.unix_ms += static_cast<int64_t>(ms);
    }
    EvacuationRequest request(std::vector<uint32_t> order, Policy policy = Policy::evacuation) {
        EvacuationRequest r;
        r.event_id = "quake-1";
        r.reason = "intensity 6-";
        r.options.policy = policy;
        for (const uint32_t vm : order) r.order.push_back({VmId{vm}, 1'000 * (vm + 1), 50});
        return r;
    }
    Result<Acts> begin(std::vector<uint32_t> order, Policy policy = Policy::evacuation) {
        EVAC_TRY(home_->evacuate(request(std::move(order), policy), now_));
        return home_->advance(0, now_);
    }
    Result<Acts> home_event(uint32_t vm, HE kind, bool confirmed = false) {
        HomeEvent event;
        event.kind = kind;
        event.confirmed = confirmed;
        event.handover = home_->find(VmId{vm})->record().handover;
        return home_->handle(VmId{vm}, event, now_);
    }
    Result<Acts> away_event(uint32_t vm, AE kind, bool confirmed = false) {
        AwayEvent event;
        event.kind = kind;
        event.confirmed = confirmed;
        event.handover = away_->find(VmId{vm})->record().handover;
        event.epoch = Epoch{5};
        return away_->handle(VmId{vm}, event, now_);
    }
    // Executes all acts of both sides, the world being kind, until nothing happens.
    void play(Acts home_acts, Acts away_acts = {}) {
        std::vector<Act> todo(home_acts.begin(), home_acts.end());
        todo.insert(todo.end(), away_acts.begin(), away_acts.end());
        for (size_t i = 0; i < todo.size() && i < 1'000; ++i) {
            const Act act = todo[i];
            log_.push_back(std::string(to_string(act.role)) + " " + names({act}));
            const Result<Acts> next = perform(act);
            ASSERT_TRUE(next.ok()) << next.error().message();
            todo.insert(todo.end(), next->begin(), next->end());
        }
    }
    Result<Acts> perform(const Act& act) {
        const auto home = [&](HE kind, uint32_t epoch = 0) {
            return home_->handle(act.vm, answer(act, kind, Epoch{epoch}), now_);
        };
        const auto away = [&](AE kind) { return away_->handle(act.vm, answer(act, kind), now_); };
        pass(10);
        switch (act.kind) {
            case ActKind::send_message:
                return act.role == Role::home ? away_->deliver(act.message, now_)
                                              : home_->deliver(act.message, now_);
            case ActKind::start_drain:
                return home(HE::drained);
            case ActKind::stop_guest:
                return home(HE::guest_stopped);
            case ActKind::capture_final:
                return home(HE::captured, 5);
            case ActKind::send_final:
                return away_event(raw(act.vm), AE::final_sealed);
            case ActKind::resume_guest:
                return home(HE::guest_resumed);
            case ActKind::destroy_source:
                return home(HE::source_destroyed);
            case ActKind::prepare_landing:
                return away(AE::landing_prepared);
            case ActKind::run_landing:
                return away(act.paused ? AE::landed_paused : AE::landed);
            case ActKind::cancel_landing:
                return away(AE::landing_cancelled);
            default:
                return Acts{};
        }
    }
    State home_state(uint32_t vm) { return home_->find(VmId{vm})->state(); }
    State away_state(uint32_t vm) { return away_->find(VmId{vm})->state(); }

    CoordinatorOptions options_;
    Now now_{1'000'000'000, 1'700'000'000'000};
    MemoryJournalFile home_file_, away_file_;
    std::optional<Journal> home_journal_, away_journal_;
    std::optional<Coordinator> home_;
    std::optional<AwayDesk> away_;
    Acts home_acts_, away_acts_;
    std::vector<std::string> log_;
};

TEST_F(Pair, OneVmMovesByTheBook) {
    play(begin({0}).value());
    EXPECT_EQ(home_state(0), State::released);
    EXPECT_EQ(away_state(0), State::released);
    EXPECT_EQ(log_, (std::vector<std::string>{
                        "home PREPARE", "home start_drain", "away prepare_landing", "away PREPARED",
                        "home stop_guest", "home capture_final", "home send_final", "away SEALED",
                        "home COMMIT", "away run_landing", "away RUNNING", "home destroy_source",
                        "home RELEASED", "away adopt_vm"}));
    const Progress progress = home_->progress(now_);
    EXPECT_EQ(progress.stage, Stage::done);
    EXPECT_EQ(progress.moved, 1u);
    const VmProgress& vm = progress.vms.at(0);
    EXPECT_EQ(vm.outcome, Outcome::moved);
    EXPECT_EQ(vm.predicted_away_ms, 1'000u);
    EXPECT_EQ(vm.away_ms, 110u);     // eleven acts of 10 ms up to RUNNING
    EXPECT_EQ(vm.downtime_ms, 70u);  // stop, capture, final, SEALED, COMMIT, landing, RUNNING
    EXPECT_EQ(vm.parts.stop_ns, 10'000'000u);
    EXPECT_EQ(vm.parts.capture_ns, 10'000'000u);
    EXPECT_EQ(vm.parts.seal_ns, 20'000'000u);
    EXPECT_EQ(vm.parts.landing_ns, 30'000'000u);
}

TEST_F(Pair, TurnsFollowTheOrderWithinTheLookahead) {
    ASSERT_TRUE(home_->evacuate(request({2, 0, 3, 1}), now_).ok());
    EXPECT_FALSE(home_->may_start_next(options_.lookahead_bytes, now_));
    const Acts first = home_->advance(0, now_).value();
    EXPECT_EQ(home_state(2), State::draining);
    EXPECT_EQ(home_state(0), State::draining);
    EXPECT_EQ(home_state(3), State::protected_);
    EXPECT_FALSE(home_->may_start_next(0, now_));
    ASSERT_TRUE(home_->reorder(std::vector<Turn>{{VmId{1}, 7, 8}, {VmId{3}, 9, 10}}).ok());
    play(first);
    EXPECT_TRUE(home_->may_start_next(0, now_));
    EXPECT_EQ(home_->advance(0, now_).value().at(0).vm, VmId{1});
}

TEST_F(Pair, ACancelBringsBackWhatIsNotCommitted) {
    ASSERT_TRUE(home_->arm("quake-1", "early warning", now_).ok());
    EXPECT_EQ(home_state(3), State::armed);
    const Acts acts = begin({0, 1, 2, 3}).value();
    ASSERT_TRUE(home_event(0, HE::drained).ok());
    EXPECT_EQ(home_->cancel("other", now_).error().code, Errc::not_found);
    const Acts back = home_->cancel("quake-1", now_).value();
    EXPECT_EQ(names(back), "stop_capture resume_guest ABORT stop_capture resume_guest ABORT");
    EXPECT_EQ(home_->stage(), Stage::cancelling);
    play(back);
    for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(home_state(i), State::protected_) << i;
    EXPECT_EQ(home_->stage(), Stage::cancelled);
    EXPECT_TRUE(home_->find(VmId{0})->may_prestage());
    EXPECT_EQ(home_->cancel("", now_).error().code, Errc::not_found);
    // An update of the same event calls for it after all: a new evacuation.
    EXPECT_FALSE(home_->joins("quake-1"));
    now_.unix_ms += 5'000;
    ASSERT_TRUE(home_->evacuate(request({0, 1}), now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 2u);
    EXPECT_EQ(home_->since_unix_ms(), now_.unix_ms);
}

// A standing order brings VMs that could not be moved when the alert came.
TEST_F(Pair, TheSameEventGoesOnWithOneThatIsDone) {
    play(begin({0}).value());
    ASSERT_EQ(home_->stage(), Stage::done);
    const int64_t since = home_->since_unix_ms();
    pass(3'000);
    restart();
    EXPECT_TRUE(home_->joins("quake-1"));
    EXPECT_FALSE(home_->joins("quake-2"));
    ASSERT_TRUE(home_->evacuate(request({1}), now_).ok());
    play(home_->advance(0, now_).value());
    const Progress progress = home_->progress(now_);
    EXPECT_EQ(progress.moved, 2u);
    EXPECT_EQ(progress.since_unix_ms, since);
    EXPECT_GT(progress.vms.at(1).away_ms, 3'000u) << "from the alert";
}

TEST_F(Pair, ACancelInSealedAsksAwayAndResumesOnlyOnItsWord) {
    Acts acts = begin({0}).value();
    ASSERT_TRUE(away_->deliver(acts.at(0).message, now_).ok());
    ASSERT_TRUE(home_event(0, HE::drained).ok());
    const Acts prepared = away_event(0, AE::landing_prepared).value();
    acts = home_->deliver(prepared.at(0).message, now_).value();  // stop_guest
    acts = home_->handle(VmId{0}, answer(acts.at(0), HE::guest_stopped), now_).value();
    acts = home_->handle(VmId{0}, answer(acts.at(0), HE::captured, Epoch{5}), now_).value();
    EXPECT_EQ(names(acts), "send_final");
    EXPECT_EQ(names(home_->cancel("", now_).value()), "ABORT");
    EXPECT_EQ(home_state(0), State::sealed);
    // A SEALED that was under way does not commit any more.
    Message sealed;
    sealed.kind = MK::sealed;
    sealed.handover = HandoverId{1};
    EXPECT_EQ(names(home_->deliver(sealed, now_).value()), "ABORT");
    // The wish survives a restart of home.
    restart();
    EXPECT_EQ(names(home_acts_), "ABORT ABORT");
    play(home_acts_);
    EXPECT_EQ(home_state(0), State::protected_);
    EXPECT_EQ(home_->progress(now_).vms.at(0).outcome, Outcome::returned);
}

TEST_F(Pair, AnAbortedTurnComesAgainThreeTimesThenStays) {
    ASSERT_TRUE(home_->evacuate(request({0}), now_).ok());
    for (int turn = 1; turn <= 3; ++turn) {
        const Acts acts = home_->advance(0, now_).value();
        ASSERT_EQ(names(acts), "PREPARE start_drain") << turn;
        EXPECT_EQ(raw(acts.at(0).handover), static_cast<uint64_t>(turn));
        play(home_event(0, HE::drain_failed).value());
        EXPECT_EQ(home_state(0), State::protected_);
        EXPECT_FALSE(home_->may_start_next(0, now_)) << "not at once";
        pass(2'000);
    }
    EXPECT_EQ(home_->stage(), Stage::done);
    EXPECT_EQ(home_->progress(now_).returned, 1u);
    EXPECT_EQ(home_->progress(now_).vms.at(0).detail, "the live work failed");
    // The same alert again is nothing; another one is.
    ASSERT_TRUE(home_->evacuate(request({0}), now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 0u);
    EvacuationRequest again = request({0});
    again.again = Again::came_back;
    ASSERT_TRUE(home_->evacuate(again, now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 1u);
    ASSERT_EQ(names(home_->advance(0, now_).value()), "PREPARE start_drain");
    play(home_event(0, HE::abort).value());
    EXPECT_TRUE(home_->progress(now_).vms.at(0).kept_home);
    ASSERT_TRUE(home_->evacuate(again, now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 0u) << "an operator brought it back";
    again.again = Again::all;
    ASSERT_TRUE(home_->evacuate(again, now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 1u) << "and sends it after all";
    ASSERT_TRUE(home_->cancel("", now_).ok());
    EvacuationRequest other = request({0});
    other.event_id = "quake-2";
    ASSERT_TRUE(home_->evacuate(other, now_).ok());
    EXPECT_EQ(home_->progress(now_).waiting, 1u);
}

TEST_F(Pair, AnOperatorsAbortEndsTheTurnsOfThatVmAlsoAfterARestart) {
    play({});
    const Acts acts = begin({0, 1, 2}).value();
    play(home_event(0, HE::abort).value());
    EXPECT_EQ(home_state(0), State::protected_);
    restart();
    pass(5'000);
    const Acts next = home_->advance(0, now_).value();
    ASSERT_FALSE(next.empty());
    for (const Act& act : next) EXPECT_NE(act.vm, VmId{0});
    EXPECT_EQ(home_->progress(now_).vms.at(0).outcome, Outcome::returned);
}

TEST_F(Pair, AnEvacuationGoesOnAfterARestart) {
    play(begin({0, 1, 2, 3}).value());
    EXPECT_EQ(home_state(0), State::released);
    ASSERT_TRUE(home_->advance(0, now_).ok());
    restart();
    EXPECT_EQ(home_->stage(), Stage::evacuating);
    play(home_acts_, away_acts_);
    for (int i = 0; i < 4; ++i) play(home_->advance(0, now_).value());
    EXPECT_EQ(home_->progress(now_).moved, 4u);
    EXPECT_EQ(home_->stage(), Stage::done);
    EXPECT_GT(home_->progress(now_).vms.at(0).downtime_ms, 0u) << "kept over the restart";
}

TEST_F(Pair, AnAlertTakesOverAPlannedMoveButNotTheOtherWayRound) {
    ASSERT_TRUE(begin({0}, Policy::planned).ok());
    EvacuationRequest alert = request({0, 1});
    alert.event_id = "quake-2";
    ASSERT_TRUE(home_->evacuate(alert, now_).ok());
    ASSERT_TRUE(home_->advance(0, now_).ok());
    EXPECT_EQ(home_->find(VmId{0})->record().options.policy, Policy::planned)
        << "under way as it began";
    EXPECT_EQ(home_->find(VmId{1})->record().options.policy, Policy::evacuation);
    EXPECT_EQ(home_->evacuate(request({2}, Policy::planned), now_).error().code, Errc::refused);
}

TEST_F(Pair, RequestsAreCheckedByName) {
    EXPECT_EQ(home_->evacuate(request({9}), now_).error().code, Errc::not_found);
    EXPECT_NE(home_->evacuate(request({1, 1}), now_).error().context.find("twice"),
              std::string::npos);
    EvacuationRequest r = request({1});
    r.options.silence_ms = 10;
    EXPECT_NE(home_->evacuate(r, now_).error().context.find("silence_ms: 10"), std::string::npos);
    r = request({1});
    r.event_id.clear();
    EXPECT_NE(home_->evacuate(r, now_).error().context.find("event_id"), std::string::npos);
    EXPECT_EQ(home_->stage(), Stage::idle);
}

TEST_F(Pair, AHeldLandingWaitsForItsRelease) {
    EvacuationRequest r = request({0}, Policy::planned);
    r.options.hold_landing = true;
    ASSERT_TRUE(home_->evacuate(r, now_).ok());
    play(home_->advance(0, now_).value());
    EXPECT_EQ(home_state(0), State::committed);
    EXPECT_TRUE(home_->find(VmId{0})->landed_paused());
    EXPECT_TRUE(away_->find(VmId{0})->landed_paused());
    EXPECT_EQ(away_state(0), State::committed);
    EXPECT_EQ(log_.back(), "away LANDED_PAUSED");
    play(home_event(0, HE::release_hold).value());
    EXPECT_EQ(home_state(0), State::released);
}

TEST_F(Pair, AHeldLandingCanBeGivenBack) {
    EvacuationRequest r = request({0}, Policy::planned);
    r.options.hold_landing = true;
    ASSERT_TRUE(home_->evacuate(r, now_).ok());
    play(home_->advance(0, now_).value());
    play({}, away_event(0, AE::give_back).value());
    EXPECT_EQ(home_state(0), State::protected_);
    EXPECT_EQ(away_state(0), State::protected_);
    EXPECT_TRUE(away_->find(VmId{0})->accepts_batches());
}

TEST_F(Pair, SilenceLetsAwayRunUnderEvacuationOnly) {
    for (const Policy policy : {Policy::evacuation, Policy::planned}) {
        const uint32_t vm = policy == Policy::planned ? 1 : 0;
        Message prepare;
        prepare.kind = MK::prepare;
        prepare.vm = VmId{vm};
        prepare.handover = HandoverId{1};
        prepare.policy = policy;
        prepare.silence_ms = 3'000;
        ASSERT_TRUE(away_->deliver(prepare, now_).ok());
        ASSERT_TRUE(away_event(vm, AE::final_sealed).ok());
        EXPECT_FALSE(away_->find(VmId{vm})->accepts_batches());
    }
    pass(60'000);  // a suspended daemon: counts as one second
    EXPECT_EQ(names(away_->tick(now_).value()), "");
    for (int i = 0; i < 3; ++i) {
        pass(500);
        EXPECT_EQ(names(away_->tick(now_).value()), "");
    }
    away_->home_heard(now_);
    std::string seen;
    for (int i = 0; i < 8; ++i) {
        pass(500);
        const Acts acts = away_->tick(now_).value();
        if (i < 5) EXPECT_EQ(names(acts), "") << i;
        seen += names(acts);
    }
    EXPECT_EQ(seen, "report run_landing COMMITTED");
    EXPECT_EQ(away_state(0), State::committed);
    EXPECT_TRUE(away_->find(VmId{0})->record().by_silence);
    EXPECT_EQ(away_state(1), State::sealed);
}

TEST_F(Pair, ForcedActsNeedAConfirmationAndAreJournaled) {
    const Acts acts = begin({0}).value();
    EXPECT_EQ(home_event(0, HE::force_resume).error().code, Errc::refused);
    EXPECT_EQ(home_event(0, HE::force_yield, true).error().code, Errc::refused)
        << "away runs nothing";
    const Error unconfirmed = away_event(1, AE::force_run).error();
    EXPECT_EQ(unconfirmed.code, Errc::refused);
    EXPECT_NE(unconfirmed.context.find("confirmed"), std::string::npos);
    const Acts run = away_event(1, AE::force_run, true).value();
    EXPECT_EQ(names(run), "report run_landing");
    EXPECT_TRUE(away_->find(VmId{1})->record().forced);
    // Home, alive after all, is told, and may yield.
    const Acts landed = away_->handle(VmId{1}, answer(run.at(1), AE::landed), now_).value();
    EXPECT_EQ(names(landed), "RUNNING");
    EXPECT_EQ(names(home_->deliver(landed.at(0).message, now_).value()), "report");
    EXPECT_EQ(names(home_->deliver(landed.at(0).message, now_).value()), "") << "reported once";
    EXPECT_EQ(home_state(1), State::protected_);
    play(home_event(1, HE::force_yield, true).value());
    EXPECT_EQ(home_state(1), State::released);
    EXPECT_EQ(away_state(1), State::released);
}

// Away runs it by silence, home resumed it by force: yielding names the handover that away waits
// for.
TEST_F(Pair, YieldEndsAConflictAboutARegularHandover) {
    Acts acts = begin({0}).value();
    ASSERT_TRUE(away_->deliver(acts.at(0).message, now_).ok());
    ASSERT_TRUE(home_event(0, HE::drained).ok());
    const Acts prepared = away_event(0, AE::landing_prepared).value();
    acts = home_->deliver(prepared.at(0).message, now_).value();  // stop_guest
    acts = home_->handle(VmId{0}, answer(acts.at(0), HE::guest_stopped), now_).value();
    acts = home_->handle(VmId{0}, answer(acts.at(0), HE::captured, Epoch{5}), now_).value();
    ASSERT_TRUE(away_event(0, AE::final_sealed).ok());
    const Acts run = away_event(0, AE::force_run, true).value();
    ASSERT_EQ(run.at(1).kind, ActKind::run_landing);
    const Acts running = away_->handle(VmId{0}, answer(run.at(1), AE::landed), now_).value();
    acts = home_event(0, HE::force_resume, true).value();
    for (const Act& act : acts) {
        if (act.kind == ActKind::resume_guest)
            ASSERT_TRUE(home_->handle(VmId{0}, answer(act, HE::guest_resumed), now_).ok());
    }
    ASSERT_EQ(home_state(0), State::protected_);
    EXPECT_EQ(names(home_->deliver(running.at(0).message, now_).value()), "report");
    play(home_event(0, HE::force_yield, true).value());
    EXPECT_EQ(home_state(0), State::released);
    EXPECT_EQ(away_state(0), State::released) << "it has heard RELEASED of its own handover";
}

TEST_F(Pair, IllegalEventsAreRefusedByNameAndChangeNothing) {
    const Error error = home_event(0, HE::release_hold).error();
    EXPECT_EQ(error.code, Errc::refused);
    EXPECT_EQ(error.context, "release_hold of vm 0: not possible in state protected");
    EXPECT_EQ(home_event(0, HE::peer_running).error().code, Errc::invalid_argument);
    EXPECT_EQ(away_event(0, AE::landed).error().code, Errc::refused);
    EXPECT_EQ(away_event(0, AE::silence).error().code, Errc::invalid_argument);
    EXPECT_NE(home_event(0, HE::captured).error().context.find("ticket"), std::string::npos);
    HomeEvent stale;
    stale.kind = HE::source_destroyed;
    stale.handover = HandoverId{77};
    EXPECT_TRUE(home_->handle(VmId{0}, stale, now_).value().empty());
    EXPECT_EQ(home_->handle(VmId{9}, stale, now_).error().code, Errc::not_found);
}

TEST_F(Pair, RemovalIsRefusedWhileAHandoverRuns) {
    const Acts acts = begin({0}).value();
    ASSERT_TRUE(away_->deliver(acts.at(0).message, now_).ok());
    EXPECT_EQ(home_->remove_vm(VmId{0}).error().code, Errc::refused);
    EXPECT_EQ(away_->remove_vm(VmId{0}).error().code, Errc::refused);
    EXPECT_TRUE(home_->remove_vm(VmId{1}).ok());
    EXPECT_EQ(home_->find(VmId{1}), nullptr);
}

// Away remembers ids of VMs that it never heard of before, so that nothing late can use them.
TEST_F(Pair, AMessageAboutAnUnknownVmIsAnsweredAndRemembered) {
    Message commit;
    commit.kind = MK::commit;
    commit.vm = VmId{99};
    commit.handover = HandoverId{4};
    const Acts acts = away_->deliver(commit, now_).value();
    ASSERT_EQ(names(acts), "ABORTED");
    EXPECT_EQ(acts.at(0).message.floor, HandoverId{4});
    restart();
    Message prepare = commit;
    prepare.kind = MK::prepare;
    EXPECT_EQ(names(away_->deliver(prepare, now_).value()), "ABORTED");
    prepare.handover = HandoverId{5};
    EXPECT_EQ(names(away_->deliver(prepare, now_).value()), "prepare_landing");
}

// A home whose journal was restored from an old copy learns from ABORTED which ids are used up.
TEST_F(Pair, HomeSkipsIdsThatAwayHasUsedUp) {
    Message prepare;
    prepare.kind = MK::prepare;
    prepare.vm = VmId{0};
    prepare.handover = HandoverId{40};
    ASSERT_TRUE(away_->deliver(prepare, now_).ok());
    ASSERT_EQ(names(away_event(0, AE::give_back).value()),
              "ABORTED cancel_landing");  // home hears nothing
    ASSERT_TRUE(away_event(0, AE::landing_cancelled).ok());
    play(begin({0}).value());
    EXPECT_EQ(home_state(0), State::protected_) << "handover 1 was refused";
    pass(2'000);
    play(home_->advance(0, now_).value());
    EXPECT_EQ(home_state(0), State::released);
    EXPECT_EQ(home_->find(VmId{0})->record().handover, HandoverId{41});
}

class BrokenFile final : public JournalFile {
  public:
    Result<Bytes> read_all(size_t size_max) override { return inner.read_all(size_max); }
    Status append(ByteSpan bytes) override {
        return broken ? Status(io_error("append", ENOSPC)) : inner.append(bytes);
    }
    Status sync() override { return inner.sync(); }
    Status truncate(uint64_t size) override { return inner.truncate(size); }
    Status replace(ByteSpan bytes) override { return inner.replace(bytes); }
    MemoryJournalFile inner;
    bool broken = false;
};

TEST(JournalFailure, PermitsNoActAndChangesNoState) {
    BrokenFile file;
    Journal journal = std::move(Journal::open(file).value());
    const Now now{1, 1};
    HomeHandover home(VmId{0}, journal);
    HomeEvent begin;
    begin.kind = HE::begin;
    file.broken = true;
    const Result<Acts> acts = home.handle(begin, now);
    ASSERT_FALSE(acts.ok());
    EXPECT_EQ(acts.error().code, Errc::io);
    EXPECT_EQ(home.state(), State::protected_);
}

TEST(SilenceMeter, CountsOnlyTimeThatWasLookedAt) {
    SilenceMeter meter(0);
    EXPECT_EQ(meter.look(500'000'000), 500'000'000u);
    EXPECT_EQ(meter.look(60'000'000'000), 1'500'000'000u);
    meter.heard(60'000'000'001);
    EXPECT_EQ(meter.look(60'100'000'001), 100'000'000u);
    EXPECT_EQ(meter.look(1), 100'000'000u) << "a clock that goes back counts nothing";
}

}  // namespace
}  // namespace evac::evacuation
