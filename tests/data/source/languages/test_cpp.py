"""What is read in C++."""

from listed_units import list_units

SOURCE = """\
module;
#include <vector>
export module shelves;
import std;

#if defined(SHELF)
NAMESPACE_BEGIN(shelf)
#endif

namespace library::stacks {

/// A book.
class MY_API Book final : public Item<Page>, private Paper {
    Q_OBJECT
public:
    /** Makes a book. */
    explicit Book(std::string title) : title_{std::move(title)}, pages_(0) {}
    Book(const Book&) = delete;
    virtual ~Book() NOEXCEPT { close(); }

    /// Counts.
    [[nodiscard]] int pages() const;

    operator bool() const { return pages_ > 0; }
    bool operator==(const Book& other) const noexcept { return true; }
    friend std::ostream& operator<<(std::ostream& out, const Book& book) { return out; }

    struct Page { int number; };

public slots:
    void open() override { EMIT_SIGNAL(opened(int)); }
};

template <typename T>
concept Readable = requires(T a) { { a.read() } -> std::same_as<int>; };

// Reads.
template <Readable T, int N = 3>
    requires (N > 1)
FORCE_INLINE auto read(const T* absl_nonnull a) -> decltype(a->read()) {
    auto twice = [&](int b) { return 2 * b; };
    FOR_EACH(page, *a) { twice(page); }
    return twice(1);
}

enum class Cover : char { hard, soft };

template <class T>
int Shelf<T>::Row::count(int a) const LOCKS_EXCLUDED(mu_) { return a; }

inline Shelf::Row::operator int() const { return 0; }

Shelf::Shelf() = default;

Shelf::~Shelf() {}

}  // namespace library::stacks

TEST_F(ShelfTest, IsEmpty) {
    EXPECT_CALL(shelf, size(_)).WillOnce(Return(int, 0));
}

constexpr int widths[] = {1, 2};
"""
#: Lines, kind, qualified name and first line of the documentation of each unit.
EXPECTED = [
    ("12-32", "class", "library.stacks.Book", "A book."),
    ("16-17", "constructor", "library.stacks.Book.Book", "Makes a book."),
    ("19-19", "constructor", "library.stacks.Book.~Book", ""),
    ("21-22", "method", "library.stacks.Book.pages", "Counts."),
    ("24-24", "method", "library.stacks.Book.operator bool", ""),
    ("25-25", "method", "library.stacks.Book.operator==", ""),
    ("26-26", "method", "library.stacks.Book.operator<<", ""),
    ("28-28", "struct", "library.stacks.Book.Page", ""),
    ("31-31", "method", "library.stacks.Book.open", ""),
    ("34-35", "type", "library.stacks.Readable", ""),
    ("37-44", "function", "library.stacks.read", "Reads."),
    ("46-46", "enum", "library.stacks.Cover", ""),
    ("48-49", "method", "library.stacks.Shelf.Row.count", ""),
    ("51-51", "method", "library.stacks.Shelf.Row.operator int", ""),
    ("55-55", "constructor", "library.stacks.Shelf.~Shelf", ""),
    ("59-61", "function", "TEST_F", ""),
]


def test_every_definition_is_a_unit():
    assert list_units(SOURCE, "cpp")[1:] == EXPECTED
