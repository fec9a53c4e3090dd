"""The schema of documents.db: numbered migrations, append-only. Everything in it can be built anew from the files."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from feedback.database import execute_script


def _m0001_documents(db: Database) -> None:
    """Pages with their chunks; the FTS table indexes the chunks' text and titles with English stemming."""
    execute_script(
        db,
        """
        create table documents (
            id integer primary key,
            path text not null unique,      -- below the folder it was added from, forward slashes
            title text not null,
            text text not null,             -- the page as it was read: passages open at their offsets in it
            sha256 text not null,           -- of the file: an unchanged file is skipped
            version integer not null,       -- counts from 1; a turn names the version that it saw
            added_at text not null default (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        );
        create table chunks (
            id integer primary key,
            document_id integer not null references documents(id) on delete cascade,
            ordinal integer not null,       -- position in the page, from 0
            title text not null,
            text text not null,
            start integer not null,         -- offsets in documents.text
            end integer not null
        );
        create index chunks_by_document on chunks(document_id, ordinal);
        create virtual table chunks_fts using fts5(
            title, text, content='chunks', content_rowid='id', tokenize='porter unicode61'
        );
        create trigger chunks_added after insert on chunks begin
            insert into chunks_fts(rowid, title, text) values (new.id, new.title, new.text);
        end;
        create trigger chunks_removed after delete on chunks begin
            insert into chunks_fts(chunks_fts, rowid, title, text) values ('delete', old.id, old.title, old.text);
        end;
        """,
    )


def _m0002_collections(db: Database) -> None:
    """Collections, roots, the versions of a document, pages, vectors. The tables are built anew: a path was unique alone."""
    execute_script(
        db,
        """
        drop trigger chunks_added;
        drop trigger chunks_removed;
        drop table chunks_fts;
        create table documents_new (
            id integer primary key,
            collection text not null,
            name text not null,             -- its path below the root it was added from, forward slashes
            root text not null,             -- the folder it was added from; '': added by itself (or before there was this column)
            title text not null,
            sha256 text not null,           -- of the file: an unchanged file is skipped
            chunking text not null,         -- how it was cut: another cut is a reason to read an unchanged file again
            version integer not null,       -- counts from 1; a turn names the version that it saw
            added_at text not null,
            unique (collection, name)
        );
        insert into documents_new select id, 'main', path, '', title, sha256, '', version, added_at from documents;
        create table versions (             -- the text of each version, while its document is there: old turns open theirs
            document_id integer not null references documents_new(id) on delete cascade,
            version integer not null,
            title text not null,
            text text not null,             -- as it was read, in Markdown: passages open at their offsets in it
            pages text not null,            -- JSON list: where page 1, 2, ... begins in text; []: the format has no pages
            added_at text not null,
            primary key (document_id, version)
        ) without rowid;
        insert into versions select id, version, title, text, '[]', added_at from documents;
        create table chunks_new (
            id integer primary key autoincrement,  -- never given twice: vectors in memory are known by it
            document_id integer not null references documents_new(id) on delete cascade,
            ordinal integer not null,       -- position in the document, from 0
            title text not null,
            text text not null,
            start integer not null,         -- offsets in the text of the document's current version
            end integer not null,
            page integer                    -- page, slide or sheet, from 1; NULL: the format has none
        );
        insert into chunks_new select id, document_id, ordinal, title, text, start, end, null from chunks;
        drop table chunks;
        drop table documents;
        alter table documents_new rename to documents;
        alter table chunks_new rename to chunks;
        create index chunks_by_document on chunks(document_id, ordinal);
        create index documents_by_root on documents(collection, root);
        create virtual table chunks_fts using fts5(
            title, text, content='chunks', content_rowid='id', tokenize='porter unicode61'
        );
        insert into chunks_fts(chunks_fts) values ('rebuild');
        create trigger chunks_added after insert on chunks begin
            insert into chunks_fts(rowid, title, text) values (new.id, new.title, new.text);
        end;
        create trigger chunks_removed after delete on chunks begin
            insert into chunks_fts(chunks_fts, rowid, title, text) values ('delete', old.id, old.title, old.text);
        end;
        create table vectors (              -- one a chunk; a chunk without one is found by its words alone
            chunk_id integer primary key references chunks(id) on delete cascade,
            encoder text not null,          -- who made it: vectors of another encoder are made anew
            vector blob not null,           -- float16, little-endian, length 1
            tokens blob not null            -- the signs of its telling tokens' vectors: one bit a dimension, a row a token
        );
        create table gone (                 -- removed documents: a version number is never given twice
            collection text not null,
            name text not null,
            version integer not null,
            primary key (collection, name)
        ) without rowid;
        create table folders (              -- folders that are looked at again by schedule
            root text not null,
            collection text not null,
            under text not null,            -- stands before the names of its documents
            by_setting integer not null,    -- 1: it is documents.folder; what that named before leaves
            added_at text not null,
            primary key (root, collection)
        ) without rowid;
        create table state (key text primary key, value integer not null) without rowid;
        insert into state values ('generation', 1);  -- counts the changes of what a search can see
        """,
    )


def _m0003_files(db: Database) -> None:
    """The path of a document that was added by itself: named again when its file is gone, it leaves."""
    execute_script(
        db,
        """
        -- whole, the links to its folder resolved; '': it has a root, or was added before there was this column
        alter table documents add column file text not null default '';
        """,
    )


document_migrations = Migrations("documents")
document_migrations(name="0001_documents")(_m0001_documents)
document_migrations(name="0002_collections")(_m0002_collections)
document_migrations(name="0003_files")(_m0003_files)
