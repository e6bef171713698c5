// Memory of an evaluation, kept from one to the next: taken piece by piece, given back in the opposite order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace gace {

class Arena {
 public:
  struct Mark {
    size_t chunk, used;
  };

  // Room for so many numbers that starts with a cache line.
  template <class T>
  T *take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + LINE - 1) / LINE * LINE;
    while (now.chunk < chunks.size() && now.used + bytes > chunks[now.chunk].size) now = {now.chunk + 1, 0};
    if (now.chunk == chunks.size()) add(std::max({bytes, LEAST, whole}));
    char *found = chunks[now.chunk].first + now.used;
    now.used += bytes;
    return reinterpret_cast<T *>(found);
  }

  Mark mark() const { return now; }
  void release(Mark before) { now = before; }

  // Everything is given back. Many pieces of memory, left by evaluations of all sizes, become one; a few stay, since
  // the system clears the pages of new memory.
  void reset() {
    now = {0, 0};
    if (chunks.size() <= MOST) return;
    const size_t size = whole;
    chunks.clear();
    whole = 0;
    add(size);
  }

 private:
  static constexpr size_t LINE = 64, LEAST = 1 << 20, MOST = 32;
  struct Chunk {
    std::unique_ptr<char[]> memory;
    char *first;
    size_t size;
  };
  std::vector<Chunk> chunks;
  // Of all. The next is as large again: so little is left over at the ends, and what is not touched costs nothing.
  size_t whole = 0;
  Mark now{0, 0};

  void add(size_t bytes) {
    std::unique_ptr<char[]> memory(new char[bytes + LINE]);
    const size_t past = reinterpret_cast<uintptr_t>(memory.get()) % LINE;
    char *first = memory.get() + (past ? LINE - past : 0);
    chunks.push_back({std::move(memory), first, bytes});
    whole += bytes;
  }
};

// Arenas of a model: each evaluation borrows one, so that threads may share the model.
class Arenas {
 public:
  class Borrowed {
   public:
    explicit Borrowed(Arenas &from) : from(from) {
      const std::lock_guard<std::mutex> lock(from.mutex);
      if (from.idle.empty()) {
        own = std::make_unique<Arena>();
      } else {
        own = std::move(from.idle.back());
        from.idle.pop_back();
      }
    }
    ~Borrowed() {
      own->reset();
      const std::lock_guard<std::mutex> lock(from.mutex);
      from.idle.push_back(std::move(own));
    }
    Borrowed(const Borrowed &) = delete;
    Arena &operator*() const { return *own; }

   private:
    Arenas &from;
    std::unique_ptr<Arena> own;
  };

 private:
  std::mutex mutex;
  std::vector<std::unique_ptr<Arena>> idle;
};

}  // namespace gace
