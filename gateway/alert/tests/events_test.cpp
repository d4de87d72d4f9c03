#include <gtest/gtest.h>

#include "rules_testing.hpp"

namespace evac::alert {
namespace {

using namespace telegrams;

// --- one event, many telegrams

TEST(Events, DuplicateDoesNothing) {
    auto e = engine({rule()});
    const Alert alert = parsed(Jma{});
    EXPECT_EQ(e.decide(alert, kNow).action, Action::evacuate);
    const Decision again = e.decide(alert, kNow + 1);
    EXPECT_TRUE(again.duplicate);
    EXPECT_EQ(again.action, Action::none);
    EXPECT_EQ(again.event_id, alert.event_id);
}

TEST(Events, CancelReusesTheSerial) {
    auto e = engine({rule()});
    Jma t;
    t.serial = "17";
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::evacuate);
    const Alert alert = parsed(t);
    t.info_type = "取消";
    t.body = false;
    const Decision cancelled = e.decide(parsed(t), kNow);
    EXPECT_FALSE(cancelled.duplicate);
    EXPECT_EQ(cancelled.action, Action::cancel);
    // Delivered late, under the cancel's serial or below: it does not bring the evacuation back.
    Jma late;
    late.serial = "16";
    EXPECT_EQ(e.decide(parsed(late), kNow).action, Action::none);
    late.serial = "17";
    late.info_type = "訂正";
    const Decision same = e.decide(parsed(late), kNow);
    EXPECT_EQ(same.action, Action::none);
    EXPECT_TRUE(says(same.reason, "older")) << same.reason;
}

TEST(Events, SecondCancelCancelsNothing) {
    auto e = engine({rule()});
    EXPECT_EQ(e.decide(json(), kNow).action, Action::evacuate);
    EXPECT_EQ(e.decide(json("e", Kind::cancel), kNow).action, Action::cancel);
    EXPECT_EQ(e.decide(json("e", Kind::cancel), kNow).action, Action::none);
    EXPECT_EQ(e.decide(json("other", Kind::cancel), kNow).action, Action::none);
    EXPECT_EQ(e.decide(json(), kNow).action, Action::evacuate);  // without serials: it starts again
}

TEST(Events, LowerSerialIsLoggedOnly) {
    auto e = engine({intensity_rule(Intensity::five_lower, {"440"})});
    Jma t;
    t.magnitude = "NaN";
    t.serial = "5";
    t.areas = area("440", "3", "3");
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::none);
    t.serial = "4";
    t.areas = area("440", "7", "7");
    const Decision older = e.decide(parsed(t), kNow);
    EXPECT_EQ(older.action, Action::none);
    EXPECT_FALSE(older.duplicate);
    EXPECT_TRUE(says(older.reason, "serial 4 after 5")) << older.reason;
    t.serial = "6";
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::evacuate);
}

TEST(Events, CancelWithALowerSerialIsOld) {
    auto e = engine({rule()});
    EXPECT_EQ(e.decide(json("e", Kind::alert, Reality::actual, 3), kNow).action, Action::evacuate);
    EXPECT_EQ(e.decide(json("e", Kind::cancel, Reality::actual, 2), kNow).action, Action::none);
    EXPECT_EQ(e.decide(json("e", Kind::cancel, Reality::actual, 3), kNow).action, Action::cancel);
}

TEST(Events, SerialsCountPerTelegramType) {
    auto e = engine({intensity_rule(Intensity::five_lower, {"440"})});
    Jma forecast;
    forecast.title = "緊急地震速報（地震動予報）";
    forecast.magnitude = "NaN";
    forecast.serial = "17";
    forecast.areas = area("440", "4", "4");
    EXPECT_EQ(e.decide(parsed(forecast), kNow).action, Action::none);
    Jma warning = forecast;
    warning.title = "緊急地震速報（警報）";
    warning.serial = "2";
    warning.areas = area("440", "5-", "5-");
    EXPECT_EQ(e.decide(parsed(warning), kNow).action, Action::evacuate);
    forecast.serial = "16";
    EXPECT_TRUE(says(e.decide(parsed(forecast), kNow).reason, "older"));
}

TEST(Events, UpdateAfterActedIsNoNewAction) {
    auto e = engine({intensity_rule(Intensity::four, {"440"}, Action::arm),
                     intensity_rule(Intensity::five_lower, {"440"})});
    Jma t;
    t.magnitude = "NaN";
    const auto step = [&](const char* serial, const char* intensity) {
        t.serial = serial;
        t.areas = area("440", intensity, intensity);
        return e.decide(parsed(t), kNow);
    };
    EXPECT_EQ(step("1", "3").action, Action::none);
    EXPECT_EQ(step("2", "4").action, Action::arm);
    const Decision armed = step("3", "4");
    EXPECT_EQ(armed.action, Action::none);
    EXPECT_TRUE(says(armed.reason, "already armed"));
    EXPECT_EQ(step("4", "6-").action, Action::evacuate);  // worse: acts
    EXPECT_EQ(step("5", "7").action, Action::none);
    EXPECT_EQ(step("6", "4").action, Action::none);  // better: does not undo
    EXPECT_EQ(step("7", "1").action, Action::none);
    t.info_type = "取消";
    t.body = false;
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::cancel);
}

// --- drills

TEST(Drills, ExerciseAndTestNeverAct) {
    for (const Reality reality : {Reality::exercise, Reality::test}) {
        auto e = engine({rule()});
        for (const Kind kind : {Kind::alert, Kind::update, Kind::cancel}) {
            const Decision decision = e.decide(json("e", kind, reality), kNow);
            EXPECT_EQ(decision.action,
                      reality == Reality::exercise ? Action::exercise : Action::none);
            EXPECT_NE(decision.event_id, "e");
        }
    }
    Jma drill;
    drill.status = "訓練";
    drill.areas = area("440", "7", "7");
    auto e = engine({rule()});
    const Decision decision = e.decide(parsed(drill), kNow);
    EXPECT_EQ(decision.action, Action::exercise);
    EXPECT_TRUE(says(decision.reason, "would evacuate")) << decision.reason;
    drill.title = "緊急地震速報配信テスト";
    drill.status = "通常";
    EXPECT_EQ(e.decide(parsed(drill), kNow).action, Action::none);
}

TEST(Drills, NeverTouchALiveEvent) {
    for (const Reality reality : {Reality::exercise, Reality::test}) {
        auto e = engine({rule()});
        EXPECT_EQ(e.decide(json("e", Kind::alert, Reality::actual, 1), kNow).action,
                  Action::evacuate);
        EXPECT_NE(e.decide(json("e", Kind::cancel, reality, 9), kNow).action, Action::cancel);
        EXPECT_NE(e.decide(json("exercise/e", Kind::cancel, reality), kNow).action, Action::cancel);
        EXPECT_EQ(e.decide(json("e", Kind::update, Reality::actual, 2), kNow).action,
                  Action::none);  // still acted on
        EXPECT_EQ(e.decide(json("e", Kind::cancel, Reality::actual, 3), kNow).action,
                  Action::cancel);
        // A live event whose name looks like a drill's is live.
        e.decide(json("x", Kind::alert, reality), kNow);
        EXPECT_EQ(e.decide(json("exercise/x"), kNow).action, Action::evacuate);
    }
}

TEST(Drills, NeverHideALiveAlert) {
    // The drill first, with the same event, serial and id; then the same for real.
    for (const char* status : {"訓練", "試験"}) {
        auto e = engine({rule()});
        Jma t;
        t.status = status;
        t.serial = "9";
        e.decide(parsed(t), kNow);
        t.serial = "1";
        t.status = "通常";
        EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::evacuate) << status;
    }
    for (const char* status : {"exercise", "test"}) {
        auto e = engine({rule()});
        const auto of = [](const char* reality) {
            return *parse_alert("",
                                R"({"version":1,"id":"m","event":"e","kind":"alert","status":")" +
                                    std::string(reality) + "\"}");
        };
        e.decide(of(status), kNow);
        EXPECT_EQ(e.decide(of("actual"), kNow).action, Action::evacuate) << status;
    }
    auto e = engine({rule()});
    Cap t = cap("a1", "Alert", "");
    t.status = "Exercise";
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::exercise);
    t = cap("a2", "Cancel", reference("a1"));
    t.status = "Exercise";
    EXPECT_EQ(e.decide(parsed(t), kNow).action, Action::exercise);
    EXPECT_EQ(e.decide(parsed(cap("a1", "Alert", "")), kNow).action, Action::evacuate);
}

TEST(Drills, FloodDoesNotPushLiveEventsOut) {
    auto e = engine({rule()});
    const Alert live = json("live");
    EXPECT_EQ(e.decide(live, kNow).action, Action::evacuate);
    for (size_t i = 0; i < kTelegramsMax + 10; ++i) {
        e.decide(json("d" + std::to_string(i), Kind::alert, Reality::exercise), kNow);
        e.decide(json("t" + std::to_string(i), Kind::alert, Reality::test), kNow);
    }
    EXPECT_TRUE(e.decide(live, kNow).duplicate);
    EXPECT_EQ(e.decide(json("live", Kind::cancel), kNow).action, Action::cancel);
}

// --- several sources

Alert from(Source source, const std::string& event, Kind kind = Kind::alert,
           Reality reality = Reality::actual) {
    Alert out = json(event, kind, reality);
    out.source = source;
    out.type = to_string(source);
    return out;
}

TEST(Sources, TwoMustCallWithinTwoMinutes) {
    auto e = engine({rule()}, 2);
    const Decision first = e.decide(from(Source::jma, "j"), kNow);
    EXPECT_EQ(first.action, Action::arm);
    EXPECT_TRUE(says(first.reason, "1 of 2 sources")) << first.reason;
    EXPECT_EQ(e.decide(from(Source::jma, "j"), kNow + 10).action,
              Action::none);  // the same source twice is one
    EXPECT_EQ(e.decide(from(Source::jma, "k"), kNow + 20).action, Action::arm);
    const Decision second = e.decide(from(Source::cap, "c"), kNow + 140);
    EXPECT_EQ(second.action, Action::evacuate) << second.reason;
    auto late = engine({rule()}, 2);
    EXPECT_EQ(late.decide(from(Source::jma, "j"), kNow).action, Action::arm);
    EXPECT_EQ(late.decide(from(Source::cap, "c"), kNow + 121).action, Action::arm);
    EXPECT_EQ(late.decide(from(Source::jma, "j"), kNow + 130).action,
              Action::evacuate);  // its update calls again
}

TEST(Sources, DrillsAndWithdrawnCallsDoNotCount) {
    auto e = engine({rule()}, 2);
    EXPECT_EQ(e.decide(from(Source::jma, "j", Kind::alert, Reality::exercise), kNow).action,
              Action::exercise);
    EXPECT_EQ(e.decide(from(Source::cap, "c"), kNow).action, Action::arm);
    EXPECT_EQ(e.decide(from(Source::cap, "c", Kind::cancel), kNow).action, Action::cancel);
    EXPECT_EQ(e.decide(from(Source::jma, "j"), kNow + 1).action, Action::arm);
    EXPECT_EQ(e.decide(from(Source::json, "x"), kNow + 2).action, Action::evacuate);
}

TEST(Sources, ArmingNeedsOne) {
    auto e = engine({rule(Action::arm)}, 3);
    EXPECT_EQ(e.decide(json(), kNow).action, Action::arm);
}

// --- memory

TEST(Memory, TelegramsAreBoundedAndOldestGoFirst) {
    auto e = engine({});
    std::vector<Alert> sent;
    for (size_t i = 0; i <= kTelegramsMax; ++i) {
        sent.push_back(json("e" + std::to_string(i)));
        EXPECT_FALSE(e.decide(sent.back(), kNow).duplicate);
    }
    EXPECT_TRUE(e.decide(sent.back(), kNow).duplicate);
    EXPECT_TRUE(e.decide(sent[1], kNow).duplicate);
    EXPECT_FALSE(e.decide(sent[0], kNow).duplicate);
}

TEST(Memory, EventsAreBoundedAndThoseActedOnStay) {
    auto e = engine({intensity_rule(Intensity::five_lower)});
    Alert strong = json("acted");
    strong.max_intensity = Intensity::seven;
    EXPECT_EQ(e.decide(strong, kNow).action, Action::evacuate);
    EXPECT_EQ(e.decide(json("weak", Kind::alert, Reality::actual, 5), kNow).action, Action::none);
    EXPECT_TRUE(
        says(e.decide(json("weak", Kind::alert, Reality::actual, 4), kNow).reason, "older"));
    for (size_t i = 0; i < 2 * kEventsMax; ++i) e.decide(json("e" + std::to_string(i)), kNow);
    EXPECT_FALSE(says(e.decide(json("weak", Kind::alert, Reality::actual, 4), kNow).reason,
                      "older"));  // forgotten
    EXPECT_EQ(e.decide(json("acted", Kind::cancel), kNow).action, Action::cancel);
}

TEST(Memory, AllActedOnIsBoundedToo) {
    auto e = engine({rule()});
    for (size_t i = 0; i <= kEventsMax; ++i) {
        EXPECT_EQ(e.decide(json("e" + std::to_string(i)), kNow).action, Action::evacuate);
    }
    EXPECT_EQ(e.decide(json("e1", Kind::cancel), kNow).action, Action::cancel);
    EXPECT_EQ(e.decide(json("e0", Kind::cancel), kNow).action, Action::none);  // forgotten
}

TEST(Memory, CapChainsAreBounded) {
    auto e = engine({rule()});
    EXPECT_EQ(e.decide(parsed(cap("a0", "Alert", "")), kNow).action, Action::evacuate);
    for (size_t i = 1; i < 3 * kMessagesMax; ++i) {
        e.decide(parsed(cap("a" + std::to_string(i), "Update", reference("a0"))), kNow);
    }
    const auto cancel = parsed(cap("z", "Cancel", reference("a0")));
    EXPECT_EQ(e.decide(cancel, kNow).action, Action::cancel);
}

TEST(Memory, SurvivesARestart) {
    const Alert acted = json("e"), cancel = json("e", Kind::cancel);
    auto e = engine({rule()});
    e.remember(acted.telegram);
    e.remember_action("e", Action::evacuate);
    e.remember_action("exercise/e", Action::exercise);
    e.remember_action("e", Action::none);
    EXPECT_TRUE(e.decide(acted, kNow).duplicate);
    EXPECT_EQ(e.decide(json("e", Kind::update), kNow).action, Action::none);
    EXPECT_EQ(e.decide(cancel, kNow).action, Action::cancel);
    auto after = engine({rule()});
    after.remember_action("e", Action::evacuate);
    after.remember_action("e", Action::cancel);
    EXPECT_EQ(after.decide(cancel, kNow).action, Action::none);
}

}  // namespace
}  // namespace evac::alert
