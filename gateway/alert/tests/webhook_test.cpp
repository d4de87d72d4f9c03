#include "evac/alert/webhook.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <limits>

namespace evac::alert {
namespace {

// The reference vector of Standard Webhooks.
constexpr const char* kSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
constexpr const char* kBody = "{\"test\": 2432232314}";
constexpr const char* kSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
constexpr const char* kWrong = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
constexpr int64_t kSent = 1614265330;

WebhookHeaders good() {
    return {"msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", kSignature};
}

// "" = accepted, else the message.
std::string verdict(const WebhookHeaders& headers, std::string_view body = kBody,
                    int64_t now = kSent, std::string_view secret = kSecret) {
    const Status status = verify_webhook(headers, body, secret, now);
    return status.ok() ? "" : status.error().context;
}

bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

TEST(Webhook, ReferenceVector) {
    EXPECT_EQ(verdict(good()), "");
}

TEST(Webhook, EveryPartIsSigned) {
    auto headers = good();
    headers.id.back() = 'K';
    EXPECT_TRUE(says(verdict(headers), "webhook-signature"));
    headers = good();
    headers.timestamp = "1614265331";
    EXPECT_TRUE(says(verdict(headers), "webhook-signature"));
    EXPECT_TRUE(says(verdict(good(), "{\"test\": 2432232315}"), "webhook-signature"));
    EXPECT_TRUE(says(verdict(good(), ""), "webhook-signature"));
    EXPECT_TRUE(says(verdict(good(), kBody, kSent, "whsec_NfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
                     "webhook-signature"));
}

TEST(Webhook, ErrorsAreRefusalsAndNeverEchoASignature) {
    auto headers = good();
    headers.signature = kWrong;
    const Status status = verify_webhook(headers, kBody, kSecret, kSent);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Errc::refused);
    EXPECT_FALSE(says(status.error().context, "AAAA"));
    EXPECT_FALSE(says(status.error().context, "g0hM9"));
}

TEST(Webhook, ToleranceIsFiveMinutesEitherWay) {
    EXPECT_EQ(verdict(good(), kBody, kSent + 300), "");
    EXPECT_EQ(verdict(good(), kBody, kSent - 300), "");
    EXPECT_TRUE(says(verdict(good(), kBody, kSent + 301), "webhook-timestamp"));
    EXPECT_TRUE(says(verdict(good(), kBody, kSent - 301), "webhook-timestamp"));
    EXPECT_TRUE(says(verdict(good(), kBody, kSent + 301), "1614265330"));  // names the value
}

TEST(Webhook, TimestampsThatAreNone) {
    for (const char* bad : {"", "-1", "+1614265330", " 1614265330", "1614265330 ", "1614265330.0",
                            "0x60379632", "1614265330s", "99999999999999999999", "now"}) {
        auto headers = good();
        headers.timestamp = bad;
        EXPECT_TRUE(says(verdict(headers), "webhook-timestamp")) << bad;
    }
    auto headers = good();
    headers.timestamp = std::to_string(std::numeric_limits<int64_t>::max());
    EXPECT_TRUE(says(verdict(headers), "webhook-timestamp"));
}

TEST(Webhook, MissingHeadersAreNamed) {
    auto headers = good();
    headers.id.clear();
    EXPECT_TRUE(says(verdict(headers), "webhook-id"));
    headers = good();
    headers.signature.clear();
    EXPECT_TRUE(says(verdict(headers), "webhook-signature"));
    EXPECT_NE(verdict({}), "");
}

TEST(Webhook, LongHeadersAreRefused) {
    auto headers = good();
    headers.id.assign(2049, 'a');
    EXPECT_TRUE(says(verdict(headers), "webhook-id"));
    headers = good();
    headers.signature = std::string(2049, ' ') + kSignature;
    EXPECT_TRUE(says(verdict(headers), "webhook-signature"));
}

TEST(Webhook, DotInTheIdIsRefused) {
    // The same signed bytes, parted elsewhere: id "msg_...", body as sent, against a longer id.
    auto headers = good();
    headers.id += ".1614265330";
    EXPECT_TRUE(says(verdict(headers), "webhook-id"));
}

TEST(Webhook, AnyOfSeveralSignaturesMayMatch) {
    auto headers = good();
    headers.signature = std::string(kWrong) + " " + kSignature;
    EXPECT_EQ(verdict(headers), "");
    headers.signature = std::string(kSignature) + " " + kWrong;
    EXPECT_EQ(verdict(headers), "");
    headers.signature = std::string("v1a,") + (kSignature + 3) + "  " + kSignature;
    EXPECT_EQ(verdict(headers), "");
}

TEST(Webhook, SignaturesOfOtherShapesDoNotMatch) {
    for (const std::string& bad :
         {std::string("v1a,") + (kSignature + 3), std::string("v2,") + (kSignature + 3),
          std::string(kSignature + 3), std::string("v1,"), std::string("v1"), std::string(" "),
          std::string(kSignature).substr(0, 46), std::string(kSignature) + "AAAA",
          std::string(kSignature) + "\n\n\n\n",
          std::string("v1,g0hM9SsE-OTPJTGt_tmIKtSyZlE3uFJELVlNIOLJ1OE="), std::string("v1,====")}) {
        auto headers = good();
        headers.signature = bad;
        EXPECT_TRUE(says(verdict(headers), "webhook-signature")) << bad;
    }
}

TEST(Webhook, OnlySixteenSignaturesAreTried) {
    std::string many;
    for (int i = 0; i < 15; ++i) many += std::string(kWrong) + " ";
    auto headers = good();
    headers.signature = many + kSignature;
    EXPECT_EQ(verdict(headers), "");
    headers.signature = many + kWrong + " " + kSignature;
    EXPECT_NE(verdict(headers), "");
}

TEST(Webhook, BadSecretsAreInvalid) {
    const std::string of_23 = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const std::string of_66 = "whsec_" + std::string(88, 'A');
    for (const std::string& bad :
         {std::string(), std::string("whsec_"), std::string("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
          std::string("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS"),
          std::string("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!"),
          std::string("WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "whsec_" + std::string(36, '='),
          std::string("whsec_    MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), of_23, of_66}) {
        const Status status = verify_webhook(good(), kBody, bad, kSent);
        ASSERT_FALSE(status.ok()) << bad;
        EXPECT_EQ(status.error().code, Errc::invalid_argument) << bad;
        EXPECT_TRUE(says(status.error().context, "24 to 64 bytes")) << bad;
    }
}

class SecretFile : public ::testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/evac_alert_XXXXXX";
        const char* made = ::mkdtemp(name);
        ASSERT_NE(made, nullptr);
        folder_ = made;
        path_ = folder_ + "/secret";
    }
    void TearDown() override {
        ::unlink(path_.c_str());
        ::rmdir(folder_.c_str());
    }
    void write(const std::string& content, mode_t mode) {
        std::ofstream(path_) << content;
        ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
    }
    Error error() {
        const auto loaded = load_webhook_secret(path_);
        EXPECT_FALSE(loaded.ok());
        return loaded.ok() ? Error{} : loaded.error();
    }
    std::string folder_, path_;
};

TEST_F(SecretFile, IsReadWithoutItsNewline) {
    for (const mode_t mode : {0600u, 0400u}) {
        write(std::string(kSecret) + "\n", mode);
        const auto loaded = load_webhook_secret(path_);
        ASSERT_TRUE(loaded.ok()) << loaded.error().message();
        EXPECT_EQ(*loaded, kSecret);
    }
}

TEST_F(SecretFile, OthersMayNotReadIt) {
    for (const mode_t mode : {0640u, 0604u, 0660u, 0644u, 0601u}) {
        write(kSecret, mode);
        EXPECT_EQ(error().code, Errc::refused) << std::oct << mode;
        EXPECT_TRUE(says(error().context, "0600"));
        EXPECT_TRUE(says(error().context, path_));
    }
}

TEST_F(SecretFile, WhatIsNoSecretIsNamed) {
    EXPECT_EQ(error().code, Errc::io);  // missing
    for (const std::string& content :
         {std::string(), std::string("\n"), std::string("hello"),
          std::string(kSecret) + " trailing", std::string(1 << 20, 'A')}) {
        write(content, 0600);
        EXPECT_EQ(error().code, Errc::invalid_argument);
        EXPECT_TRUE(says(error().context, path_));
        EXPECT_FALSE(says(error().context, "MfKQ"));  // never echoed
    }
    ::unlink(path_.c_str());
    ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
    EXPECT_EQ(error().code, Errc::invalid_argument);
    ::rmdir(path_.c_str());
    ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);  // must not block
    EXPECT_EQ(error().code, Errc::invalid_argument);
}

}  // namespace
}  // namespace evac::alert
