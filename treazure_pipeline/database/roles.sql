-- The roles and databases of treazure-pipeline, for the administrator of a PostgreSQL server (16 or newer).
-- Run it with psql, connected to any database, as a superuser or a role with CREATEROLE and CREATEDB:
--
--   treazure-pipeline db roles > roles.sql
--   psql -d postgres -f roles.sql            names of your own: -v owner=... -v runtime=... -v database=...
--
-- It may be run again. It sets no passwords: \password treazure_owner, and so on.
--   owner    `treazure-pipeline db upgrade`: owns the tables and the reporting views, changes them
--   runtime  everything else: reads and writes rows, stages exports in tables of its own; owns Dagster's database
--   reader   the reporting views, once `treazure-pipeline db grant-reader treazure_reader` was run as the owner
\set ON_ERROR_STOP on
\if :{?owner}
\else
    \set owner treazure_owner
\endif
\if :{?runtime}
\else
    \set runtime treazure_runtime
\endif
\if :{?reader}
\else
    \set reader treazure_reader
\endif
\if :{?database}
\else
    \set database treazure
\endif
\if :{?dagster}
\else
    \set dagster dagster
\endif

select format('create role %I login', name) from unnest(array[:'owner', :'runtime', :'reader']) as name
where name not in (select rolname from pg_roles) \gexec
select format('grant %I to current_user with set true', name) from unnest(array[:'owner', :'runtime']) as name
where not (select rolsuper from pg_roles where rolname = current_user) \gexec

select format('create database %I owner %I encoding ''UTF8'' template template0', name, owner)
from (values (:'database', :'owner'), (:'dagster', :'runtime')) as wanted (name, owner)
where name not in (select datname from pg_database) \gexec
grant connect, temporary on database :"database" to :"runtime";
grant connect on database :"database" to :"owner", :"reader";

\connect :"database"
select format('create schema %I authorization %I', name, :'owner') from unnest(array['treazure_pipeline', 'treazure_reporting']) as name
where to_regnamespace(name) is null \gexec
set role :"owner";
grant usage, create on schema treazure_pipeline to :"runtime";
grant select, insert, update, delete on all tables in schema treazure_pipeline to :"runtime";
alter default privileges in schema treazure_pipeline grant select, insert, update, delete on tables to :"runtime";
grant usage on schema treazure_reporting to :"runtime";
grant select on all tables in schema treazure_reporting to :"runtime";
alter default privileges in schema treazure_reporting grant select on tables to :"runtime";
-- The statistics that a migration's plans need: from 17 on there is a right for it, before only the owner has it.
select :SERVER_VERSION_NUM >= 170000 as has_maintain \gset
\if :has_maintain
    grant maintain on all tables in schema treazure_pipeline to :"runtime";
    alter default privileges in schema treazure_pipeline grant maintain on tables to :"runtime";
\endif
