// Golden test of both tables: every (state, event) pair, the illegal ones too. After a deliberate
// change: EVAC_UPDATE_GOLDEN=1 evacuation_table_test, then read the difference as if it were code.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "evac/evacuation/away_handover.hpp"
#include "evac/evacuation/home_handover.hpp"

namespace evac::evacuation {
namespace {

const char* name(Persist persist) {
    return persist == Persist::no ? "" : persist == Persist::lazy ? " J(lazy)" : " J";
}

template <class Row, class Kind>
std::string describe(std::span<const Row> table, Kind first_internal) {
    using Do = std::remove_cvref_t<decltype(Row{}.acts[0])>;
    using Guard = decltype(Row{}.guard);
    using Note = decltype(Row{}.note);
    std::ostringstream out;
    out << "# state + event [guard]: -> to, J = journaled before the acts, {note}, acts in order\n";
    for (const State state : kStates) {
        out << "\n" << to_string(state) << "\n";
        for (uint8_t e = 0; e < static_cast<uint8_t>(Kind::count_); ++e) {
            const Kind event = static_cast<Kind>(e);
            bool any = false;
            for (const Row& row : table) {
                if (row.from != state || row.on != event) continue;
                any = true;
                out << "  " << to_string(event);
                if (row.guard != Guard::always) out << " [" << to_string(row.guard) << "]";
                out << ":";
                if (row.to != row.from) out << " -> " << to_string(row.to);
                out << name(row.persist);
                if (row.note != Note::none) out << " {" << to_string(row.note) << "}";
                bool acts = false;
                for (const Do act : row.acts) {
                    if (act == Do::nothing) continue;
                    out << (acts ? ", " : " ") << to_string(act);
                    acts = true;
                }
                if (row.reason != AbortReason::none) out << " (" << to_string(row.reason) << ")";
                if (row.to == row.from && !acts && row.note == Note::none) out << " ignored";
                out << "\n";
            }
            if (!any)
                out << "  " << to_string(event) << ": "
                    << (event < first_internal ? "ILLEGAL" : "nothing") << "\n";
        }
    }
    return out.str();
}

void expect_golden(const std::string& file, const std::string& actual) {
    const std::string path = std::string(EVAC_GOLDEN_DIR) + "/" + file;
    if (std::getenv("EVAC_UPDATE_GOLDEN") != nullptr) std::ofstream(path) << actual;
    std::ifstream in(path);
    const std::string expected{std::istreambuf_iterator<char>(in), {}};
    EXPECT_EQ(actual, expected) << path;
}

TEST(HomeTable, Golden) {
    expect_golden("home_table.txt", describe(home_table(), kHomeEventsFromOutside));
}
TEST(AwayTable, Golden) {
    expect_golden("away_table.txt", describe(away_table(), kAwayEventsFromOutside));
}

template <class Row>
void expect_well_formed(std::span<const Row> table) {
    std::set<std::tuple<State, int, int>> seen;
    std::set<std::pair<State, int>> closed;  // an unguarded row was seen: later ones are dead
    for (const Row& row : table) {
        const std::pair<State, int> pair{row.from, static_cast<int>(row.on)};
        const std::string where = std::string(to_string(row.from)) + " + " + to_string(row.on);
        EXPECT_EQ(closed.count(pair), 0u) << where << ": dead row";
        EXPECT_TRUE(seen.insert({row.from, pair.second, static_cast<int>(row.guard)}).second)
            << where;
        if (static_cast<int>(row.guard) == 0) closed.insert(pair);
        if (row.to == row.from) continue;
        const bool harmless = (row.from == State::protected_ && row.to == State::armed) ||
                              (row.from == State::armed && row.to == State::protected_);
        const bool lazy = row.persist == Persist::lazy;
        EXPECT_TRUE(row.persist == Persist::durable || (harmless && lazy))
            << where << ": not journaled";
    }
}

TEST(Tables, EveryMoveIsJournaledAndNoRowIsDead) {
    expect_well_formed(home_table());
    expect_well_formed(away_table());
}

template <class Row, class Do>
bool does(const Row& row, Do act) {
    return std::find(std::begin(row.acts), std::end(row.acts), act) != std::end(row.acts);
}

// The rules of home_handover.hpp, read off the rows.
TEST(HomeTable, ActsThatMatterHappenOnlyWhereTheyMay) {
    for (const HomeRow& row : home_table()) {
        const std::string where = std::string(to_string(row.from)) + " + " + to_string(row.on);
        if (does(row, HomeDo::resume_guest)) EXPECT_EQ(row.to, State::aborted) << where;
        if (does(row, HomeDo::destroy_source)) EXPECT_EQ(row.to, State::running_away) << where;
        if (does(row, HomeDo::send_commit)) EXPECT_EQ(row.to, State::committed) << where;
        if (does(row, HomeDo::send_released)) EXPECT_EQ(row.to, State::released) << where;
        if (does(row, HomeDo::send_final)) {
            EXPECT_EQ(row.to, State::sealed) << where;
            EXPECT_EQ(row.persist, Persist::durable) << where;
        }
        if (row.to == State::aborted &&
            (row.from == State::sealed || row.from == State::committed)) {
            const bool planned = row.from == State::sealed && row.guard == HomeGuard::planned;
            EXPECT_TRUE(planned || row.on == HomeEventKind::peer_aborted ||
                        row.on == HomeEventKind::force_resume)
                << where;
        }
        if (row.to == State::running_away && row.from != State::running_away) {
            EXPECT_TRUE(row.on == HomeEventKind::peer_running ||
                        row.on == HomeEventKind::force_yield)
                << where;
        }
    }
}

TEST(AwayTable, ActsThatMatterHappenOnlyWhereTheyMay) {
    for (const AwayRow& row : away_table()) {
        const std::string where = std::string(to_string(row.from)) + " + " + to_string(row.on);
        if (does(row, AwayDo::run_landing)) EXPECT_EQ(row.to, State::committed) << where;
        if (does(row, AwayDo::send_running)) {
            EXPECT_TRUE(row.to == State::running_away || row.to == State::released) << where;
        }
        if (does(row, AwayDo::send_sealed)) EXPECT_EQ(row.to, State::sealed) << where;
        if (does(row, AwayDo::send_aborted)) {
            // About the current id only where it was given up; elsewhere about older ids only.
            const bool given_up = row.to == State::aborted || row.to == State::protected_;
            const bool older = row.guard == AwayGuard::always &&
                               (row.from == State::armed || row.from == State::sealed);
            EXPECT_TRUE(given_up || older) << where;
        }
        if (row.from == State::committed && row.to == State::aborted) {
            EXPECT_TRUE(row.on == AwayEventKind::landing_failed ||
                        (row.on == AwayEventKind::give_back && row.guard == AwayGuard::hold))
                << where;
        }
        if (row.from == State::running_away) EXPECT_NE(row.to, State::aborted) << where;
        if (row.to == State::committed && row.from != State::committed) {
            EXPECT_TRUE(row.on == AwayEventKind::home_commit || row.on == AwayEventKind::silence ||
                        row.on == AwayEventKind::force_run)
                << where;
        }
    }
}

}  // namespace
}  // namespace evac::evacuation
