#pragma once
// A large zeroed array whose memory the kernel gives as it is touched. Empty when it refuses.
#include <sys/mman.h>

#include <cstddef>
#include <type_traits>
#include <utility>

namespace evac::dedup {

template <class T>
class LazyArray {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    LazyArray() = default;
    explicit LazyArray(size_t count) {
        if (count == 0) return;
        void* memory = ::mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return;
        // Random access over many MiB: fewer faults and TLB misses. Advice only.
        ::madvise(memory, count * sizeof(T), MADV_HUGEPAGE);
        data_ = static_cast<T*>(memory);
        size_ = count;
    }
    LazyArray(LazyArray&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    LazyArray& operator=(LazyArray&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~LazyArray() {
        if (data_ != nullptr) ::munmap(data_, size_ * sizeof(T));
    }

    // All zero again, and without memory until it is used.
    void reset() {
        if (data_ != nullptr) ::madvise(data_, size_ * sizeof(T), MADV_DONTNEED);
    }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace evac::dedup
