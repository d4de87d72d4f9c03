#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "rules_testing.hpp"

namespace evac::alert {
namespace {

using namespace telegrams;

// --- ground motion

// The epicentral distance that makes X, the distance to the fault, what it says.
double epicentral_km(double magnitude_jma, double depth_km, double x_km) {
    const double hypocentral = x_km + 0.5 * std::pow(10, 0.5 * (magnitude_jma - 0.171) - 1.85);
    return std::sqrt(hypocentral * hypocentral - depth_km * depth_km);
}

TEST(GroundMotion, CheckValue) {
    // M6.5, depth 40 km, 43 km from the hypocentre: 4.43 at ARV 1.
    EXPECT_NEAR(estimated_intensity(6.5, 40, std::sqrt(43.0 * 43 - 40.0 * 40), 1), 4.43, 0.005);
    // By hand, M6.5, depth 40 km, X = 43 km: Mw 6.329; 3.67082 + 0.152 - 1.29 - log10(43 + 4.0891)
    // - 0.086 = 0.77390; PGV = 10^0.77390 * 1.31 = 7.783 cm/s; 2.68 + 1.72 * 0.89117 = 4.2128.
    EXPECT_NEAR(estimated_intensity(6.5, 40, epicentral_km(6.5, 40, 43), 1), 4.2128, 0.0005);
    EXPECT_NEAR(estimated_intensity(6.5, 40, 30, 1.5) - estimated_intensity(6.5, 40, 30, 1),
                1.72 * std::log10(1.5), 1e-9);
}

TEST(GroundMotion, FallsWithDistanceAndGrowsWithMagnitude) {
    for (double km = 0; km < 600; km += 20) {
        EXPECT_GE(estimated_intensity(7, 20, km, 1), estimated_intensity(7, 20, km + 20, 1));
        EXPECT_GT(estimated_intensity(7.5, 20, km, 1), estimated_intensity(7, 20, km, 1));
    }
    EXPECT_TRUE(
        std::isfinite(estimated_intensity(9.5, 0, 0, 2)));  // inside the source: held at 3 km
}

TEST(GroundMotion, GreatCircle) {
    EXPECT_NEAR(distance_km({0, 0}, {0, 1}), 111.19, 0.01);
    EXPECT_NEAR(distance_km({0, 179.5}, {0, -179.5}), 111.19, 0.01);
    EXPECT_NEAR(distance_km({90, 0}, {-90, 77}), 20015.1, 0.1);
    EXPECT_NEAR(distance_km({35.6812, 139.7671}, {34.7025, 135.4959}), 403,
                1);  // Tokyo - Osaka stations
    EXPECT_EQ(distance_km(kSite, kSite), 0);
}

// --- rules

TEST(Rules, ThresholdOnTheEstimate) {
    // The same earthquake, under the site and 300 km away.
    auto e = engine({intensity_rule(Intensity::five_lower)});
    const Decision near = e.decide(quake(7, 20, kSite, "near"), kNow);
    EXPECT_EQ(near.action, Action::evacuate) << near.reason;
    EXPECT_TRUE(says(near.reason, "against 5-")) << near.reason;
    const Decision far = e.decide(quake(7, 20, {38.2, 139.5}, "far"), kNow);
    EXPECT_EQ(far.action, Action::none) << far.reason;
    EXPECT_TRUE(says(far.reason, "300.2 km")) << far.reason;
}

TEST(Rules, EstimateIsTakenWithOneSigmaAndSoftGround) {
    const Position epicentre{36.2, 139.5};
    const double km = distance_km(kSite, epicentre);
    const double expected = estimated_intensity(6.7, 30, km, 1.5) + 0.4;
    ASSERT_GT(expected, 4.5);
    ASSERT_LT(estimated_intensity(6.7, 30, km, 1),
              4.5);  // bare rock and no sigma would not trigger
    auto e = engine({intensity_rule(Intensity::five_lower)});
    EXPECT_EQ(e.decide(quake(6.7, 30, epicentre), kNow).action, Action::evacuate);
}

TEST(Rules, ClassesOfTheScale) {
    // One magnitude step at a time until each class is reached, compared with the published lower
    // bounds.
    const std::pair<Intensity, double> bounds[] = {
        {Intensity::three, 2.5},      {Intensity::four, 3.5},      {Intensity::five_lower, 4.5},
        {Intensity::five_upper, 5.0}, {Intensity::six_lower, 5.5}, {Intensity::six_upper, 6.0},
        {Intensity::seven, 6.5}};
    for (const auto& [least, bound] : bounds) {
        for (double magnitude = 4; magnitude < 9; magnitude += 0.05) {
            auto e = engine({intensity_rule(least)});
            const double estimate = estimated_intensity(magnitude, 10, 0, 1.5) + 0.4;
            if (std::abs(estimate - bound) < 1e-6) continue;
            EXPECT_EQ(e.decide(quake(magnitude, 10, kSite), kNow).action == Action::evacuate,
                      estimate >= bound)
                << to_string(least) << " M" << magnitude;
        }
    }
}

TEST(Rules, AreasOfTheSite) {
    Jma t;
    t.magnitude = "NaN";
    t.areas = area("440", "5-", "5+") + area("441", "6+", "7");
    const auto action = [&t](Intensity least, std::vector<std::string> areas) {
        return engine({intensity_rule(least, std::move(areas))}).decide(parsed(t), kNow).action;
    };
    EXPECT_EQ(action(Intensity::five_upper, {"440"}), Action::evacuate);
    EXPECT_EQ(action(Intensity::six_lower, {"440"}), Action::none);  // 441's 7 is not ours
    EXPECT_EQ(action(Intensity::six_lower, {"440", "441"}), Action::evacuate);
    EXPECT_EQ(action(Intensity::one, {"999"}), Action::none);
    EXPECT_EQ(action(Intensity::seven, {"441"}), Action::evacuate);
}

TEST(Rules, GreaterOfAreaAndEstimateCounts) {
    Jma t;
    t.coordinate = "+35.5+139.5-10000/";
    t.magnitude = "7.5";
    t.areas = area("440", "3", "3");
    EXPECT_EQ(
        engine({intensity_rule(Intensity::six_lower, {"440"})}).decide(parsed(t), kNow).action,
        Action::evacuate);
    t.coordinate = "+45.5+139.5-10000/";
    t.areas = area("440", "6-", "6-");
    EXPECT_EQ(
        engine({intensity_rule(Intensity::six_lower, {"440"})}).decide(parsed(t), kNow).action,
        Action::evacuate);
}

TEST(Rules, AssumedHypocentreIsNoGroundMotion) {
    Jma t;
    t.condition = "仮定震源要素";
    t.magnitude = "8.0";  // a placeholder, whatever it says
    t.coordinate = "+35.5+139.5-10000/";
    t.areas = area("440", "4", "4");
    Rule by_magnitude = rule();
    by_magnitude.min_magnitude = 5;
    EXPECT_EQ(
        engine({intensity_rule(Intensity::five_lower, {"440"})}).decide(parsed(t), kNow).action,
        Action::none);
    EXPECT_EQ(engine({by_magnitude}).decide(parsed(t), kNow).action, Action::none);
    t.areas = area("440", "5-", "5-");
    EXPECT_EQ(
        engine({intensity_rule(Intensity::five_lower, {"440"})}).decide(parsed(t), kNow).action,
        Action::evacuate);
}

TEST(Rules, AreasWithoutIntensityMustBeNamed) {
    Rule listed = rule();
    listed.areas = {"440"};
    Jma t;
    t.areas = area("441", "7", "7");
    const Decision elsewhere = engine({listed}).decide(parsed(t), kNow);
    EXPECT_EQ(elsewhere.action, Action::none);
    EXPECT_TRUE(says(elsewhere.reason, "areas"));
    t.areas += area("440", "1", "1");
    EXPECT_EQ(engine({listed}).decide(parsed(t), kNow).action, Action::evacuate);
    EXPECT_EQ(engine({listed}).decide(json(), kNow).action, Action::none);
}

TEST(Rules, MagnitudeAndDistance) {
    Rule r = rule();
    r.min_magnitude = 6.5;
    r.max_distance_km = 100;
    EXPECT_EQ(engine({r}).decide(quake(6.5, 10, {36, 139.5}), kNow).action, Action::evacuate);
    EXPECT_EQ(engine({r}).decide(quake(6.4, 10, {36, 139.5}), kNow).action, Action::none);
    EXPECT_EQ(engine({r}).decide(quake(9, 10, {37, 139.5}), kNow).action, Action::none);
    Alert unlocated = json();
    unlocated.magnitude = 9;
    EXPECT_TRUE(says(engine({r}).decide(unlocated, kNow).reason, "not located"));
    Alert unsized_quake = quake(9, 10, kSite);
    unsized_quake.magnitude.reset();
    EXPECT_TRUE(says(engine({r}).decide(unsized_quake, kNow).reason, "magnitude"));
}

TEST(Rules, GreatestIntensityCountsOnlyWithoutAPlace) {
    Alert here = json();
    here.max_intensity = Intensity::six_lower;
    EXPECT_EQ(engine({intensity_rule(Intensity::six_lower)}).decide(here, kNow).action,
              Action::evacuate);
    here = json();
    here.max_intensity = Intensity::five_upper;
    EXPECT_EQ(engine({intensity_rule(Intensity::six_lower)}).decide(here, kNow).action,
              Action::none);
    Alert far = quake(6, 10, {43, 141});
    far.max_intensity = Intensity::seven;
    EXPECT_EQ(engine({intensity_rule(Intensity::five_lower)}).decide(far, kNow).action,
              Action::none);
}

TEST(Rules, SourceAndStrongestActionWin) {
    Rule only_power = rule();
    only_power.source = Source::power;
    auto e = engine({only_power});
    EXPECT_TRUE(says(e.decide(json(), kNow).reason, "no rule for source json"));
    Alert battery = json("ups");
    battery.source = Source::power;
    battery.power_event = "on_battery";
    const Decision decision = e.decide(battery, kNow);
    EXPECT_EQ(decision.action, Action::evacuate);
    EXPECT_TRUE(says(decision.reason, "on_battery"));

    auto both = engine(
        {intensity_rule(Intensity::four, {}, Action::arm), intensity_rule(Intensity::six_lower)});
    Alert a = json("e1");
    a.max_intensity = Intensity::five_lower;
    EXPECT_EQ(both.decide(a, kNow).action, Action::arm);
    a = json("e2");
    a.max_intensity = Intensity::seven;
    EXPECT_EQ(both.decide(a, kNow).action, Action::evacuate);
    EXPECT_EQ(engine({}).decide(a, kNow).action, Action::none);
}

TEST(Rules, HostileNumbersDecideNothing) {
    const double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();
    for (const double magnitude : {nan, -inf, -1e308}) {
        for (const double depth : {nan, inf, -1e308, 1e308}) {
            EXPECT_EQ(engine({intensity_rule(Intensity::five_lower)})
                          .decide(quake(magnitude, depth, {nan, inf}), kNow)
                          .action,
                      Action::none);
        }
    }
}

// --- CAP

TEST(CapRules, SeverityAndShape) {
    const auto action = [](const std::string& severity, const std::string& shape,
                           std::vector<std::string> areas = {}) {
        Cap t;
        t.infos = "<info><severity>" + severity + "</severity><area>" + shape + "</area></info>";
        return engine({intensity_rule(Intensity::five_lower, std::move(areas))})
            .decide(parsed(t), kNow)
            .action;
    };
    const std::string around = "<polygon>35,139 36,139 36,140 35,140 35,139</polygon>";
    const std::string beside = "<polygon>36,139 37,139 37,140 36,140 36,139</polygon>";
    EXPECT_EQ(action("Severe", around), Action::evacuate);
    EXPECT_EQ(action("Extreme", beside + around), Action::evacuate);
    EXPECT_EQ(action("Moderate", around), Action::none);
    EXPECT_EQ(action("", around), Action::none);
    EXPECT_EQ(action("Severe", beside), Action::none);
    EXPECT_EQ(action("Severe", ""), Action::none);
    EXPECT_EQ(action("Severe", "<circle>35.5,139.6 10</circle>"), Action::evacuate);
    EXPECT_EQ(action("Severe", "<circle>35.5,139.7 10</circle>"), Action::none);
    const std::string code = "<geocode><valueName>n</valueName><value>5909</value></geocode>";
    EXPECT_EQ(action("Severe", code, {"5909"}), Action::evacuate);
    EXPECT_EQ(action("Severe", code, {"5910"}), Action::none);
    // An L around a corner that holds the site in its bounding box only.
    EXPECT_EQ(action("Severe",
                     "<polygon>35,139 36,139 36,139.2 35.2,139.2 35.2,140 35,140 35,139</polygon>"),
              Action::none);
}

TEST(CapRules, PastAndExpiredDoNothing) {
    Cap t;
    t.infos = "<info><urgency>Past</urgency><severity>Extreme</severity></info>";
    const Decision past = engine({rule()}).decide(parsed(t), kNow);
    EXPECT_EQ(past.action, Action::none);
    EXPECT_TRUE(says(past.reason, "past"));
    Alert alert = parsed(Cap{});
    alert.expires_unix_s = kNow - kExpiryGraceS - 1;
    const Decision expired = engine({rule()}).decide(alert, kNow);
    EXPECT_EQ(expired.action, Action::none);
    EXPECT_TRUE(says(expired.reason, "expired 301 s ago")) << expired.reason;
    alert.expires_unix_s = kNow - kExpiryGraceS;
    EXPECT_EQ(engine({rule()}).decide(alert, kNow).action, Action::evacuate);
    alert.kind = Kind::cancel;
    alert.expires_unix_s = 0;
    auto e = engine({rule()});
    EXPECT_EQ(e.decide(parsed(Cap{}), kNow).action, Action::evacuate);
    alert.telegram += "/cancel";
    EXPECT_EQ(e.decide(alert, kNow).action, Action::cancel);  // a cancel does not expire
}

TEST(CapRules, UpdatesAndCancelsAreFollowedThroughWhatTheyReferTo) {
    auto e = engine({rule()});
    EXPECT_EQ(e.decide(parsed(cap("a1", "Alert", "")), kNow).action, Action::evacuate);
    const Decision second = e.decide(parsed(cap("a2", "Update", reference("a1"))), kNow);
    EXPECT_EQ(second.action, Action::none);
    EXPECT_TRUE(says(second.reason, "already evacuating"));
    const Decision third =
        e.decide(parsed(cap("a3", "Update", reference("a2"))), kNow);  // the last update only
    EXPECT_EQ(third.action, Action::none);
    EXPECT_EQ(third.event_id, "s@example.org/a1");
    const Decision cancelled =
        e.decide(parsed(cap("a4", "Cancel", reference("x") + " " + reference("a3"))), kNow);
    EXPECT_EQ(cancelled.action, Action::cancel);
    EXPECT_EQ(cancelled.event_id, "s@example.org/a1");
}

TEST(CapRules, AlertAfterItsCancelDoesNothing) {
    auto e = engine({rule()});
    const Decision early = e.decide(parsed(cap("a2", "Cancel", reference("a1"))), kNow);
    EXPECT_EQ(early.action, Action::none);
    EXPECT_TRUE(says(early.reason, "nothing under way"));
    const Decision late = e.decide(parsed(cap("a1", "Alert", "")), kNow);
    EXPECT_EQ(late.action, Action::none);
    EXPECT_TRUE(says(late.reason, "cancelled before it came"));
    EXPECT_EQ(e.decide(parsed(cap("b1", "Alert", "")), kNow).action, Action::evacuate);
}

}  // namespace
}  // namespace evac::alert
