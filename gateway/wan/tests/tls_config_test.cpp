#include "evac/wan/tls_config.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "test_certs.hpp"

namespace evac::wan::testing {
namespace {

class TlsFilesTest : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string path = std::filesystem::temp_directory_path() / "evac-wan-tls-XXXXXX";
        ASSERT_NE(::mkdtemp(path.data()), nullptr);
        folder_ = path;
        const TestPki& pki = TestPki::get();
        const TlsPem pem = pem_for(pki.site_a, pki.ca, "site-b");
        files_ = {write("a.pem", pem.certificate),
                  write("a.key", pem.key),
                  write("ca.pem", pem.ca),
                  "site-b",
                  {},
                  {}};
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    std::string write(const std::string& name, const std::string& text) {
        const auto path = folder_ / name;
        std::ofstream(path) << text;
        return path;
    }
    std::string refusal() {
        auto loaded = TlsContext::load(files_);
        return loaded.ok() ? "" : loaded.error().message();
    }
    void expect_refusal(const std::string& field, const std::string& why) {
        const std::string text = refusal();
        EXPECT_NE(text.find(field), std::string::npos) << text;
        EXPECT_NE(text.find(why), std::string::npos) << text;
    }

    std::filesystem::path folder_;
    TlsFiles files_;
};

TEST_F(TlsFilesTest, LoadsGoodFiles) {
    EXPECT_EQ(refusal(), "");
}

TEST_F(TlsFilesTest, NamesTheMissingFile) {
    files_.certificate_file = folder_ / "absent.pem";
    expect_refusal("wan.certificate_file", "absent.pem");
    files_.certificate_file = "";
    expect_refusal("wan.certificate_file", "PEM file is expected");
}

TEST_F(TlsFilesTest, RefusesWhatIsNotPem) {
    const TlsFiles good = files_;
    files_.certificate_file = write("bad.pem", "hello");
    expect_refusal("wan.certificate_file", "holds no certificate");
    files_ = good;
    files_.key_file = good.certificate_file;
    expect_refusal("wan.key_file", "holds no private key");
    files_ = good;
    files_.ca_file = good.key_file;
    expect_refusal("wan.ca_file", "holds no certificate");
}

TEST_F(TlsFilesTest, RefusesAForeignKey) {
    files_.key_file = write("b.key", pem_of(TestPki::get().site_b.key.get()));
    expect_refusal("wan.key_file", "does not belong to the certificate");
}

TEST_F(TlsFilesTest, RefusesOwnExpiredCertificate) {
    const Identity old = make_identity(
        {.name = "site-a", .not_before_s = -7200, .not_after_s = -3600}, &TestPki::get().ca);
    files_.certificate_file = write("old.pem", pem_of(old.certificate.get()));
    files_.key_file = write("old.key", pem_of(old.key.get()));
    expect_refusal("wan.certificate_file", "expired");
}

TEST_F(TlsFilesTest, RefusesAnEmptyPeerName) {
    files_.expected_peer_name = "";
    expect_refusal("wan.expected_peer_name", "empty");
}

TEST_F(TlsFilesTest, RefusesAKeyTypeThatDtlsCannotUse) {
    const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
        EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), &EVP_PKEY_free);
    files_.key_file = write("ed.key", pem_of(key.get()));
    expect_refusal("wan.key_file", "accepted: ECDSA");
}

TEST_F(TlsFilesTest, NamesTheRevocationListThatIsWrong) {
    files_.crl_file = write("list.pem", make_list({.revoked = {9}}, TestPki::get().ca));
    EXPECT_EQ(refusal(), "");
    files_.crl_file = write(
        "old.pem", make_list({.last_update_s = -7200, .next_update_s = -60}, TestPki::get().ca));
    expect_refusal("wan.crl_file", "old.pem");
    expect_refusal("wan.crl_file", "expired on");
    files_.crl_file = write("empty.pem", "");
    expect_refusal("wan.crl_file", "holds no revocation list");
    files_.crl_file = folder_ / "absent.pem";
    expect_refusal("wan.crl_file", "absent.pem");
}

TEST_F(TlsFilesTest, RefusesAFileThatIsTooLarge) {
    files_.ca_file = write("huge.pem", std::string((1u << 20) + 1, 'x'));
    expect_refusal("wan.ca_file", "1 MiB");
}

}  // namespace
}  // namespace evac::wan::testing
