#include "settings.hpp"

#include <gtest/gtest.h>

#include "evac/core/random.hpp"

namespace wan_emulator {
namespace {

std::string refusal(const std::vector<std::string>& arguments) {
    const auto options = parse_arguments(arguments);
    return options.ok() ? "accepted" : options.error().context;
}

TEST(Settings, ReadsAWholeCommandLine) {
    const auto options =
        parse_arguments({"--a",           "va",       "--b=vb",      "--rate",      "100mbit",
                         "--rtt-ms",      "20",       "--jitter-ms", "0.5",         "--loss",
                         "0.1",           "--ge",     "3:4",         "--queue-kib", "256",
                         "--seed",        "7",        "--control",   "/tmp/x",      "--outage",
                         "5s:2s",         "--outage", "10:500ms",    "--grain-us",  "100",
                         "--packets-max", "1000"});
    ASSERT_TRUE(options.ok()) << options.error().context;
    EXPECT_EQ(options->interface_a, "va");
    EXPECT_EQ(options->interface_b, "vb");
    EXPECT_EQ(options->link.rate_bits_per_s, 100'000'000U);
    EXPECT_EQ(options->link.delay_ns, 10'000'000U);
    EXPECT_EQ(options->link.jitter_ns, 500'000U);
    EXPECT_DOUBLE_EQ(options->link.loss, 0.001);
    EXPECT_DOUBLE_EQ(options->link.ge_loss, 0.03);
    EXPECT_DOUBLE_EQ(options->link.ge_burst, 4);
    EXPECT_EQ(options->link.queue_bytes, 262'144U);
    EXPECT_EQ(options->seed, 7U);
    EXPECT_EQ(options->control_path, "/tmp/x");
    ASSERT_EQ(options->outages.size(), 2U);
    EXPECT_EQ(options->outages[0].at_ns, 5'000'000'000U);
    EXPECT_EQ(options->outages[1].for_ns, 500'000'000U);
    EXPECT_EQ(options->grain_ns, 100'000U);
    EXPECT_EQ(options->packets_max, 1000U);
}

TEST(Settings, RatesAndDurations) {
    EXPECT_EQ(*parse_rate("rate", "1.5gbit"), 1'500'000'000U);
    EXPECT_EQ(*parse_rate("rate", "800kbit"), 800'000U);
    EXPECT_EQ(*parse_rate("rate", "0"), 0U);
    for (const char* text : {"", "100", "mbit", "-1mbit", "1e3mbit", "100MBIT", "1mbitx", "nan",
                             "inf", "101gbit", "1bit"}) {
        EXPECT_FALSE(parse_rate("rate", text).ok()) << text;
    }
    EXPECT_EQ(*parse_duration("outage", "2"), 2'000'000'000U);
    EXPECT_EQ(*parse_duration("outage", "250us"), 250'000U);
    for (const char* text : {"", "s", "-1s", "1m", "1 s", "99999999999s", "nan"}) {
        EXPECT_FALSE(parse_duration("outage", text).ok()) << text;
    }
}

TEST(Settings, ErrorsNameTheOptionTheValueAndWhatIsAccepted) {
    EXPECT_EQ(refusal({}), "--a '': expected an interface's name");
    EXPECT_EQ(refusal({"--a", "x"}), "--b '': expected an interface's name");
    EXPECT_EQ(refusal({"--a", "x", "--b", "x"}), "--b 'x': expected another interface than --a");
    EXPECT_EQ(
        refusal({"--rate", "fast"}),
        "--rate 'fast': expected a rate such as 50mbit, 1.5gbit or 800kbit, or 0 for no limit");
    EXPECT_EQ(refusal({"--loss", "101"}), "--loss '101': expected a number from 0 to 100");
    EXPECT_EQ(refusal({"--loss"}), "--loss: value missing");
    EXPECT_EQ(refusal({"--ge", "3"}).substr(0, 25), "--ge '3': expected MEANLO");
    EXPECT_EQ(refusal({"--ge", "60:2"}).substr(0, 13), "--ge '60:2': ");
    EXPECT_EQ(refusal({"--outage", "5"}).substr(0, 15), "--outage '5': e");
    EXPECT_EQ(refusal({"--queue-kib", "-1"}),
              "--queue-kib '-1': expected a whole number from 0 to 1048576");
    EXPECT_EQ(refusal({"--seed", "x"}).substr(0, 12), "--seed 'x': ");
    EXPECT_EQ(refusal({"--bogus", "1"}), "unknown option '--bogus'; see --help");
    EXPECT_EQ(refusal({"va"}).substr(0, 14), "argument 'va':");
    EXPECT_LT(refusal({"--rate", std::string(100000, '9')}).size(), 300U);
}

TEST(Settings, CommandsOfTheControlSocket) {
    auto command = parse_command("rate 50mbit");
    ASSERT_TRUE(command.ok());
    EXPECT_EQ(command->kind, Command::Kind::set);
    EXPECT_TRUE(command->a_to_b && command->b_to_a);
    command = parse_command("  loss\t1  b-a\r");
    ASSERT_TRUE(command.ok());
    EXPECT_FALSE(command->a_to_b);
    EXPECT_TRUE(command->b_to_a);
    command = parse_command("outage 2s");
    ASSERT_TRUE(command.ok());
    EXPECT_EQ(command->kind, Command::Kind::outage);
    EXPECT_EQ(command->outage_ns, 2'000'000'000U);
    EXPECT_EQ(parse_command("stats")->kind, Command::Kind::stats);
    for (const char* line : {"", " ", "rate", "rate fast", "loss 1 c-d", "outage", "stats now",
                             "rate 1mbit a-b x", "seed 1", "shutdown 1"}) {
        const auto refused = parse_command(line);
        ASSERT_FALSE(refused.ok()) << line;
        EXPECT_NE(refused.error().context.find("expected"), std::string::npos);
    }
}

TEST(Settings, AnyBytesAsACommandAreAnswered) {
    evac::Random random(1);
    const std::string_view alphabet = "rateloss ge:50mbit.-\t\0\xff 1sab";
    for (int i = 0; i < 20'000; ++i) {
        std::string line;
        for (uint64_t n = random.below(40); n > 0; --n)
            line += alphabet[random.below(alphabet.size())];
        const auto command = parse_command(line);
        if (!command.ok()) EXPECT_FALSE(command.error().context.empty());
    }
}

}  // namespace
}  // namespace wan_emulator
